"""Before the run: which slides can be read, which scanners they are from, and what the run costs."""
