def keys(table):
    """The keys of a table.

    >>> keys({"b": 1, "a": 2})
    ['a', 'b']
    """
    return sorted(table)
