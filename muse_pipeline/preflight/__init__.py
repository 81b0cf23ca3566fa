"""Before the run: can every slide be read, what mix of scanners is it, and what will it cost here?"""
