"""Keep every holder out of a database, and remove what stands in the way of a reset."""
