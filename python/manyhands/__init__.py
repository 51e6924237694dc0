"""Every way of doing many things at once in Python, under one API."""
