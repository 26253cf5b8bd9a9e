"""Mutants of the statements that change a state: one state swapped, or one condition removed. A test must fail for each.

The triggers of the control plane refuse illegal transitions. They cannot refuse a legal transition under a wrong condition.
``mutants`` lists the changes, ``running`` tries one of them in a copy of the package, ``__main__`` tries all.
"""
