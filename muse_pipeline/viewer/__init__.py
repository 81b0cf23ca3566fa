"""A page per slide: its image and all its nuclei in the browser, opened from the disk without a
server.
"""
