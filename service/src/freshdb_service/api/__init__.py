"""The REST interface: what is on the wire, and nothing else. ``app.create_app`` puts it together."""
