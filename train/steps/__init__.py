"""From a configuration to steps: model, optimizer, loop, CUDA graphs, evaluation."""
