namespace LayerSkip

open System
open System.Numerics
open LayerSkip.Kernels
open Microsoft.FSharp.NativeInterop
open TorchSharp

#nowarn "9" // Rows of logits where the kernels left them.

/// What a pass says of its rows, before a token is chosen: [rows; vocabulary]. Read it before the next pass, which may
/// write over it.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type Logits =
    internal
    /// [1; rows; vocabulary]
    | Tensor of Tensor
    /// Where the kernels left as many float32 numbers.
    | InMemory of first: nativeint * rows: int * vocabulary: int

/// Reading logits, wherever they are.
[<RequireQualifiedAccess>]
module Logits =
    let private row (first: nativeint) vocabulary index : ReadOnlySpan<float32> =
        let values = first + nativeint index * nativeint vocabulary * nativeint sizeof<float32>
        ReadOnlySpan<float32>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<float32> values), vocabulary)

    /// Float32 numbers in this process' memory, whoever left them there, or a tensor of others. They lie there as long as the
    /// logits live.
    let private (|Floats|Others|) (logits: Logits) =
        match logits with
        | Logits.InMemory(first, rows, vocabulary) -> Floats(first, rows, vocabulary)
        | Logits.Tensor tensor when
            tensor.dtype = torch.ScalarType.Float32 && tensor.device_type = DeviceType.CPU
            ->
            Floats(Tensors.address tensor, int tensor.shape[1], int tensor.shape[2])
        | Logits.Tensor tensor -> Others tensor

    /// Where a row's largest value stands, of equal ones that of the lowest id: columns are ids, or `ids` has one for each.
    let private best (ids: int[] voption) (values: ReadOnlySpan<float32>) : int =
        match ids with
        | ValueNone -> Search.IndexOfMax values
        | ValueSome ids -> ids[Search.IndexOfMax(values, ReadOnlySpan(ids, 0, values.Length))]

    let private bestOf (ids: int[]) (values: float[]) : int =
        let largest = Array.max values
        Seq.zip ids values
        |> Seq.filter (fun (_, value) -> value = largest)
        |> Seq.map fst
        |> Seq.min

    let private argmaxAmong (ids: int[] voption) (logits: Logits) : int[] =
        match logits, ids with
        | Floats(first, rows, columns), _ ->
            let found = Array.init rows (fun index -> best ids (row first columns index))
            GC.KeepAlive logits
            found
        | Others tensor, ValueNone -> Tensors.toIds (tensor.argmax -1L)
        | Others tensor, ValueSome ids ->
            Tensors.toFloats tensor
            |> Array.chunkBySize (int tensor.shape[2])
            |> Array.map (bestOf ids)

    /// The largest logit's id in each row; of equal ones the lowest.
    let argmax (logits: Logits) : int[] = argmaxAmong ValueNone logits

    /// The same of logits of some ids alone: `ids` has one for each column.
    let internal argmaxOf (ids: int[]) (logits: Logits) : int[] = argmaxAmong (ValueSome ids) logits

    /// The first row that holds NaN or infinity.
    let tryFirstNotFinite (logits: Logits) : int option =
        match logits with
        | Logits.InMemory(first, rows, vocabulary) ->
            Seq.init rows id
            |> Seq.tryFind (fun index -> not (Search.AreFinite(row first vocabulary index)))
        | Logits.Tensor tensor -> Tensors.tryFirstNotFinite tensor

    /// How many rows there are.
    let rows (logits: Logits) : int =
        match logits with
        | Logits.InMemory(_, rows, _) -> rows
        | Logits.Tensor tensor -> int tensor.shape[1]

    /// How many numbers a row has: the vocabulary's, or those of some of its ids.
    let columns (logits: Logits) : int =
        match logits with
        | Logits.InMemory(_, _, vocabulary) -> vocabulary
        | Logits.Tensor tensor -> int tensor.shape[2]

    /// The first `rows` of them, over the same memory.
    let truncate (rows: int) (logits: Logits) : Logits =
        match logits with
        | Logits.InMemory(first, _, vocabulary) -> Logits.InMemory(first, rows, vocabulary)
        | Logits.Tensor tensor -> Logits.Tensor(tensor.narrow (1L, 0L, int64 rows))

    let private widen (source: ReadOnlySpan<float32>) (values: float[]) =
        let lanes = Vector<float32>.Count
        let whole = source.Length - source.Length % lanes
        let mutable low, high = Vector<float>.Zero, Vector<float>.Zero

        for at in 0..lanes .. whole - 1 do
            Vector.Widen(Vector<float32>(source.Slice at), &low, &high)
            low.CopyTo(values, at)
            high.CopyTo(values, at + lanes / 2)

        for at in whole .. source.Length - 1 do
            values[at] <- float source[at]

    /// Copies a row's values as float64 into the front of `values`.
    let internal copyRow (index: int) (values: float[]) (logits: Logits) : unit =
        match logits with
        | Floats(first, _, vocabulary) ->
            widen (row first vocabulary index) values
            GC.KeepAlive logits
        | Others tensor ->
            let copied = Scope.free (fun () -> Tensors.toFloats (tensor.narrow (1L, int64 index, 1L)))
            copied.CopyTo(values, 0)

    /// A float32 copy in this process' memory, which the scope owns, and where its numbers lie: the caller's to alter.
    let internal copied (logits: Logits) : struct (Logits * nativeint) =
        match logits with
        | Floats(first, rows, columns) ->
            let copy = torch.empty ([| 1L; int64 rows; int64 columns |], torch.ScalarType.Float32)
            let place = Tensors.address copy
            (row first (rows * columns) 0)
                .CopyTo(
                    Span<float32>(NativePtr.toVoidPtr (NativePtr.ofNativeInt<float32> place), rows * columns)
                )

            GC.KeepAlive logits
            struct (Logits.Tensor copy, place)
        | Others tensor ->
            let copy = Scope.one (fun () -> tensor.``to``(torch.ScalarType.Float32).cpu().contiguous())
            struct (Logits.Tensor copy, Tensors.address copy)

    /// The ids of a row's `count` largest logits, the largest first and of equal ones the lowest id.
    let largest (count: int) (index: int) (logits: Logits) : int[] =
        match logits with
        | Floats(first, _, vocabulary) ->
            let places = Array.zeroCreate (min count vocabulary)
            Search.Largest(row first vocabulary index, Span places) |> ignore
            GC.KeepAlive logits
            places
        | Others tensor ->
            Scope.free (fun () ->
                let values = tensor.narrow (1L, int64 index, 1L)
                let struct (_, ids) = values.topk (min count (int tensor.shape[2]))
                Tensors.toIds ids)

    let private choicesAt (ids: int[] voption) (first: nativeint) rows columns : struct (int * float)[] =
        let choices = Array.zeroCreate rows

        Workers.Shared.Run(
            rows,
            fun index ->
                let values = row first columns index
                let largest = values[Search.IndexOfMax values]
                let share = 1.0 / float (Search.SumOfExp(values, largest))

                if Double.IsFinite share then
                    choices[index] <- struct (best ids values, share)
        )

        choices

    let private choicesAmong (ids: int[] voption) (logits: Logits) : struct (int * float)[] =
        match logits with
        | Floats(first, rows, columns) ->
            let choices = choicesAt ids first rows columns
            GC.KeepAlive logits
            choices
        | Others tensor ->
            use _inference = Scope.inference ()
            let law = tensor.to_type(torch.ScalarType.Float64).log_softmax -1L

            Array.map2
                (fun id most ->
                    if Double.IsFinite most then
                        struct (id, exp most)
                    else
                        struct (0, 0.0))
                (argmaxAmong ids logits)
                (Tensors.toFloats (law.amax [| -1L |]))

    /// Of each row the largest logit's id, of equal ones the lowest, and its probability (softmax), good to six digits: what an
    /// exit would draft, and its confidence. Of a row with a NaN or infinity 0 and 0, as decoding drafts there.
    let choices (logits: Logits) : struct (int * float)[] = choicesAmong ValueNone logits

    /// The same of logits of some ids alone, with the probability among them: `ids` has one for each column.
    let internal choicesOf (ids: int[]) (logits: Logits) : struct (int * float)[] =
        choicesAmong (ValueSome ids) logits

    /// The values of each row, [rows][vocabulary], as float64: copies, which outlive the next pass.
    let toFloats (logits: Logits) : float[][] =
        match logits with
        | Logits.InMemory(first, rows, vocabulary) ->
            Array.init rows (fun index -> (row first vocabulary index).ToArray() |> Array.map float)
        | Logits.Tensor tensor -> Tensors.toFloats tensor |> Array.chunkBySize (int tensor.shape[2])
