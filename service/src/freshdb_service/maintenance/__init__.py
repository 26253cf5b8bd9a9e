"""The loops that keep an installation in order. Each file has one, with a ``run_once`` that does a round and returns.

No replica leads. A loop claims what it works on, row by row, so that any number of replicas can run all of them; and it
does nothing that it could not do again after dying in the middle. What costs the more, the more there is (comparing all
rows with all catalogs), falls to one replica at a time, which needs no lock for it: doing it twice is only a waste.

================  ==============================================================================================
reaper            ends leases whose deadline has passed
janitor           resets dirty databases
replenisher       keeps pools filled, shrinks idle ones, drops what must go, prepares schema pools
reconciler        compares rows, Redis and the servers' catalogs, and repairs what differs
================  ==============================================================================================

``rounds`` runs them.
"""
