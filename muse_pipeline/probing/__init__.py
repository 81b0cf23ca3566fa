"""What a backbone has learnt: classes at given points, and the same nucleus in two views."""
