"""Every setting of a run, and the named recipes that set some of them."""
