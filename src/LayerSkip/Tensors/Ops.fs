namespace LayerSkip

open System
open TorchSharp

/// A residual block, or anything that takes hidden states to hidden states: [batch; rows; hidden] -> the same.
type Layer = Tensor -> Tensor

/// Something around a layer (dropout, a logit-lens tap, activation checkpointing), given the layer's index from 0.
type LayerWrapper = int -> Layer -> Layer

/// The plain forms: readable, on any device, in any dtype, differentiable. They define the fast ones.
[<RequireQualifiedAccess>]
module Ops =
    /// x W^T + b: x [..; in], weight [out; in], bias [out] -> [..; out]. Weights narrower than the activations are widened
    /// for the product.
    let linear (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        let widened (t: Tensor) = if t.dtype = x.dtype then t else t.``to`` x.dtype
        torch.nn.functional.linear (x, widened weight, bias |> Option.map widened |> Option.toObj)

    /// x W^T + b: x [..; in], weight [out; in], bias [out] -> [..; out], all in the dtype of the weight, which x is rounded
    /// to; the sums are float32.
    let roundedLinear (weight: Tensor) (bias: Tensor option) (x: Tensor) : Tensor =
        let rounded (t: Tensor) = t.``to`` weight.dtype
        torch.nn.functional.linear (rounded x, weight, bias |> Option.map rounded |> Option.toObj)

    /// x / rms(x) * weight over the last dimension (RMSNorm, arXiv 1910.07467, equation 4), rms(x) = sqrt(mean x^2 + eps):
    /// x [..; size], weight [size] -> [..; size], in the dtype of x; NaN where the squares of a row sum up to infinity.
    let rmsNorm (weight: Tensor) (eps: float) (x: Tensor) : Tensor =
        // Half precision would overflow in the square, so that part runs in float32, as in transformers.
        let wide =
            match x.dtype with
            | torch.ScalarType.Float16
            | torch.ScalarType.BFloat16 -> x.``to`` torch.ScalarType.Float32
            | _ -> x

        // An infinite mean would make its row zeros that look like any other.
        let meanSquare = (wide * wide).mean([| -1L |], true).nan_to_num(nan, nan)
        let normed = wide * (Scalars.addNumberInPlace eps meanSquare).rsqrt_()
        let cast (t: Tensor) = if t.dtype = x.dtype then t else t.``to`` x.dtype
        cast normed * cast weight

    /// Turns each head's halves against each other by its position's angles (RoPE, arXiv 2104.09864): cosines and signed
    /// sines [rows; 1; headDim], x [batch; rows; heads; headDim].
    let rotate (cos: Tensor) (sin: Tensor) (x: Tensor) : Tensor =
        let turned = x.roll (x.shape[3] / 2L, Nullable -1L)
        x * cos |> Scalars.addInPlace (turned.mul_ sin)

    /// silu(gate) * up (SwiGLU, arXiv 2002.05202), with gate and up side by side: [..; 2 intermediate] ->
    /// [..; intermediate].
    let swiGlu (gateUp: Tensor) : Tensor =
        // Split at once: the way back joins both gradients, where that of two views would add them up over zeros.
        let halves = gateUp.chunk (2L, -1L)
        halves[0].silu() * halves[1]

    /// Which keys each query may see, [rows; keys], true where it may: query i stands at position
    /// `start` + i and looks back over `window` positions, itself included, or over all.
    let mask (window: int option) (start: int) (rows: int) (device: torch.Device) : Tensor =
        Scope.one (fun () ->
            let range (first: int) (count: int) =
                (Tensors.ofIds [| int64 count |] [| first .. first + count - 1 |]).``to`` device

            let query, key = (range start rows).unsqueeze 1L, (range 0 (start + rows)).unsqueeze 0L
            let causal = key.le query

            match window with
            | None -> causal
            | Some size ->
                let oldest = (range (start - size + 1) rows).unsqueeze 1L
                causal.logical_and (key.ge oldest))

    /// Grouped attention (arXiv 2305.13245), softmax(q k^T / sqrt(headDim)) v, where heads / kvHeads heads share each k and
    /// v: q [batch; rows; heads; headDim] over k and v [batch; kvHeads; keys; headDim]
    /// -> [batch; rows; heads * headDim]. The mask is [rows; keys], or null when every query sees every key.
    let attention (mask: Tensor) (q: Tensor) (k: Tensor) (v: Tensor) : Tensor =
        let batch, rows, heads, dim = q.shape[0], q.shape[1], q.shape[2], q.shape[3]
        let kvHeads = k.shape[1]
        let group = heads / kvHeads
        // The heads that share a key head become rows of one product: no key is copied.
        let byHead = if rows = 1L then q else q.transpose (1L, 2L)
        let grouped = byHead.reshape (batch, kvHeads, group * rows, dim)

        let mask =
            if isNull mask || group = 1L then
                mask
            else
                mask.repeat [| group; 1L |]

        let mixed = torch.nn.functional.scaled_dot_product_attention (grouped, k, v, mask, 0.0, false)
        // CUDA's kernels may leave the heads behind the rows in memory.
        mixed.reshape(batch, heads, rows, dim).transpose(1L, 2L).reshape(batch, rows, heads * dim)
