"""Create templates, and the databases and schemas of pools."""
