"""How a batch and the parameters lie in memory: the rows of each task, cu_seqlens, flat buffers."""
