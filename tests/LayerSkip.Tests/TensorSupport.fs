module LayerSkip.Tests.TensorSupport

open System
open TorchSharp
open LayerSkip

/// Native tensors that live. Those that an earlier test left to the collector go first: it may take them at any time.
let liveTensors () : int64 =
    GC.Collect()
    GC.WaitForPendingFinalizers()
    torch.Tensor.TotalCount

let bytesOf (tensor: Tensor) : byte[] =
    use _scope = torch.NewDisposeScope()
    tensor.contiguous().cpu().view(-1L).bytes.ToArray()
