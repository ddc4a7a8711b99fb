// The ops of kernels/ for a CPU: what their Triton launchers do, by the same names and with the same arguments.
//
// Everything is computed in fp32, whatever the activations' dtype (float or bfloat16), with ATen's vectors (AVX-512,
// AVX2) and ATen's threads. Dropout's bits are those of kernels/dropout.py.
// No result depends on the number of threads: sums over rows are taken in pieces of a fixed size, added up in order.

#include <torch/library.h>

#include "attention.h"
#include "dropout.h"
#include "embedding.h"
#include "first_token.h"
#include "gelu.h"
#include "layer_norm.h"
#include "surgery.h"
#include "task_sums.h"

// Called within autograd Functions alone, so that a schema need not say what is written to.
TORCH_LIBRARY(concord_native, library) {
  const auto cpu = [](auto* function) { return torch::dispatch(c10::DispatchKey::CPU, function); };
  library.def("add_norm_forward", cpu(add_norm_forward));
  library.def("attention_backward", cpu(attention_backward));
  library.def("attention_forward", cpu(attention_forward));
  library.def("combine_adamw_step", cpu(combine_adamw_step));
  library.def("dropout_factors", cpu(dropout_factors));
  library.def("embedding_forward", cpu(embedding_forward));
  library.def("first_token_backward", cpu(first_token_backward));
  library.def("first_token_forward", cpu(first_token_forward));
  library.def("gelu_backward", cpu(gelu_backward));
  library.def("gelu_forward", cpu(gelu_forward));
  library.def("gram_of_flat", cpu(gram_of_flat));
  library.def("norm_backward", cpu(norm_backward));
  library.def("table_sums", cpu(table_sums));
  library.def("task_sums", cpu(task_sums));
}
