module LayerSkip.Tests.TensorSupport

open System
open TorchSharp
open LayerSkip
open LayerSkip.Kernels

/// What an earlier test left to the collector goes now: it may be taken at any time, in the midst of a test that
/// counts too.
let private collect () =
    GC.Collect()
    GC.WaitForPendingFinalizers()

/// Native tensors that live, to be compared with a later count that takes nothing away by itself: what a test itself
/// leaves to the collector is a leak.
let liveTensors () : int64 =
    collect ()
    torch.Tensor.TotalCount

/// Bytes that the kernels' buffers hold, as `liveTensors`.
let liveFloats () : int64 =
    collect ()
    FloatBuffer.Held

let bytesOf (tensor: Tensor) : byte[] =
    use _scope = torch.NewDisposeScope()
    tensor.contiguous().cpu().view(-1L).bytes.ToArray()
