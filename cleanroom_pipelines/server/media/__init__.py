"""The server side of the data-room (Media) API: one module per kind of object, one function per call."""
