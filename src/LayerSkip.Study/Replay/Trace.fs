namespace LayerSkip

open System
open System.Runtime.InteropServices
open System.Threading
open TorchSharp

/// What a trace is to be of.
type TraceOptions = {
    /// The most new tokens; the context may end the text sooner.
    MaxNewTokens: int
    /// Tokens that end the text.
    StopIds: int[]
    /// Of the prompt's last positions, how many are traced too: evidence for policies that look at it.
    PromptRows: int
}

/// A greedy text, and what every layer made of each of its positions.
type Trace = {
    Prompt: int[]
    /// The new tokens, the stop token that ended them included.
    Written: int[]
    /// Whether a stop token ended the text; else it was the limit.
    Stopped: bool
    /// The most new tokens that there were to be.
    Limit: int
    StopIds: int[]
    Layers: int
    /// The model after it has read each new token but the last, whose successor the row's token is.
    Rows: JudgedRow[]
    /// The last positions of the prompt, where the token is what the whole model would have said, whatever follows.
    PromptRows: JudgedRow[]
} with

    /// The new tokens as `Generation` tells them: without a stop token.
    member this.TokenIds =
        if this.Stopped then
            this.Written[.. this.Written.Length - 2]
        else
            this.Written

/// Hidden states that wait for the head: they are copied aside as the layers make them, and go through the norm and head that
/// all exits share many at a time, so that those weights are read once for all of them. Rows of the CPU kernels' head
/// depend on no other row, so these are decoding's own logits to the bit.
[<Sealed>]
type private Shelf(weights: Weights, perPosition: int) =
    let config = weights.Config
    let activations = ScalarType.activations weights.Device weights.Dtype

    // As many rows at once as pay the reading of the head, and whose logits a core's cache holds where the vocabulary is small;
    // hidden states until they are 32 MiB.
    let headRows = max 16 (min 64 ((1 <<< 16) / config.Vocabulary))
    let positions = max 1 (min 1024 ((1 <<< 23) / (config.Hidden * perPosition)))

    let states =
        torch
            .empty(
                [| int64 (positions * perPosition); int64 config.Hidden |],
                activations,
                Weights.torchDevice weights.Device
            )
            .DetachFromDisposeScope()

    let kernels = weights.Kernels
    let pass = kernels |> Option.map _.Rent()
    let address = kernels |> Option.map (fun _ -> Tensors.address states) |> Option.defaultValue 0n
    let rowBytes = nativeint config.Hidden * nativeint states.ElementSize
    // A cache's storage changes when it grows, and its address takes as long to find as a row to copy.
    let mutable source: Tensor = null
    let mutable sourceAddress = 0n
    let mutable rows = 0
    let choices = ResizeArray<struct (int * float)>()

    let head first count : Logits =
        match pass with
        | Some pass ->
            Logits.InMemory(pass.Head(address + nativeint first * rowBytes, count), count, config.Vocabulary)
        | None ->
            states.narrow(0L, int64 first, int64 count).unsqueeze 0L
            |> SharedHead.logits weights
            |> Logits.Tensor

    let drain () =
        for first in 0..headRows .. rows - 1 do
            Scope.free (fun () -> head first (min headRows (rows - first)) |> Logits.choices)
            |> choices.AddRange

        rows <- 0

    /// Copies the states of a layer, row after row.
    member _.Put(hidden: Hidden) : unit =
        hidden.During(fun slab ->
            let from = Storage.states hidden.Place slab.Storage

            if pass.IsSome && not (obj.ReferenceEquals(from, source)) then
                source <- from
                sourceAddress <- Tensors.address from

            for row in hidden.Start .. hidden.Start + hidden.Rows - 1 do
                if rows = positions * perPosition then
                    drain ()

                match pass with
                | Some _ ->
                    NativeMemory.Copy(
                        (sourceAddress + nativeint row * rowBytes).ToPointer(),
                        (address + nativeint rows * rowBytes).ToPointer(),
                        unativeint rowBytes
                    )
                | None ->
                    Scope.free (fun () ->
                        from.narrow(1L, int64 row, 1L).view [| 1L; -1L |]
                        |> states.narrow(0L, int64 rows, 1L).copy_
                        |> ignore)

                rows <- rows + 1)

    /// What the head says of all that was put, in order.
    member _.Choices() : struct (int * float)[] =
        drain ()
        choices.ToArray()

    interface IDisposable with
        member _.Dispose() =
            pass |> Option.iter (fun pass -> kernels.Value.Return pass)
            states.Dispose()

/// One full-depth greedy decoding that keeps what every layer would have said: with exits that are prefixes of the model
/// the text is the same under every exit layer and draft length, and so are the drafts up to the first wrong one. A trace
/// therefore holds what all of them do.
[<RequireQualifiedAccess>]
module Trace =
    /// As decoding has it where nothing is said.
    let options: TraceOptions = {
        MaxNewTokens = GenerationOptions.defaults.MaxNewTokens
        StopIds = [||]
        PromptRows = 0
    }

    let private judged (token: int) (choices: struct (int * float)[]) : JudgedRow = {
        Token = token
        Choices = choices |> Array.map (fun (struct (id, _)) -> id)
        Confidences = choices |> Array.map (fun (struct (_, confidence)) -> confidence)
    }

    let private decode cancelled (weights: Weights) (options: TraceOptions) (prompt: int[]) : Trace =
        let layers = weights.Config.Layers
        let exits = layers - 1
        let limit = min options.MaxNewTokens (weights.Config.Context - prompt.Length)
        let isStop id = Array.contains id options.StopIds
        use _noGrad = Scope.noGrad ()
        let start = { Cache.create weights layers (prompt.Length + limit) with Cancelled = cancelled }
        use _storage = start.Slab :> IDisposable
        use shelf = new Shelf(weights, max 1 exits)
        let written = ResizeArray<int>()
        // What the whole model says of each traced row.
        let finals = ResizeArray<struct (int * float)>()

        let shelve layer hidden =
            if layer <= exits then
                shelf.Put hidden

        let look (struct (hidden: Hidden, cache: Cache)) : Cache =
            let logits =
                Model.logits hidden
                |> Overflow.guard weights layers (fun _ -> Array.append prompt (written.ToArray()))

            finals.AddRange(Logits.choices logits)
            let struct (next, _) = finals[finals.Count - 1]
            written.Add next
            cache

        // The pass over the prompt brings a token, whether it is traced or not.
        let traced = max 0 (min options.PromptRows prompt.Length)

        let mutable cache =
            Scope.free (fun () ->
                (if traced = 0 then
                     Model.forward weights 1 prompt start
                 else
                     Model.forwardEach weights traced prompt shelve start)
                |> look)

        let promptFinals = if traced = 0 then [||] else finals.ToArray()
        finals.Clear()

        while written.Count < limit && not (isStop written[written.Count - 1]) do
            let last = [| written[written.Count - 1] |]
            let before = cache
            cache <- Scope.free (fun () -> Model.forwardEach weights 1 last shelve before |> look)

        let early = shelf.Choices()

        let row places (final: struct (int * float)) token =
            Array.append (Array.map (Array.get early) places) [| final |] |> judged token

        {
            Prompt = prompt
            Written = written.ToArray()
            Stopped = isStop written[written.Count - 1]
            Limit = limit
            StopIds = options.StopIds
            Layers = layers
            Rows =
                finals.ToArray()
                |> Array.mapi (fun index final ->
                    let first = exits * (traced + index)
                    row [| first .. first + exits - 1 |] final written[index + 1])
            // Of these a layer's rows came together.
            PromptRows =
                promptFinals
                |> Array.mapi (fun index (struct (token, _) as final) ->
                    row [| for exit in 0 .. exits - 1 -> exit * traced + index |] final token)
        }

    /// Faults of options and of a prompt of ids: as `Generation.run`'s.
    let check (weights: Weights) (options: TraceOptions) (prompt: int[]) : Result<unit, LayerSkipError list> =
        let greedy = {
            GenerationOptions.greedy Strategy.Autoregressive options.MaxNewTokens with
                StopIds = options.StopIds
        }

        Generation.run weights None greedy prompt |> Result.map ignore

    /// Decodes a prompt of ids. Errors: those of `check`, and numbers that overflow. Once `cancelled` is, it throws
    /// OperationCanceledException within a pass.
    let runUntil
        (cancelled: CancellationToken)
        (weights: Weights)
        (options: TraceOptions)
        (prompt: int[])
        : Result<Trace, LayerSkipError list> =
        Check.guard (fun () ->
            check weights options prompt
            |> Result.map (fun () -> decode cancelled weights options prompt))

    /// `runUntil` that nothing cancels.
    let run (weights: Weights) (options: TraceOptions) (prompt: int[]) : Result<Trace, LayerSkipError list> =
        runUntil CancellationToken.None weights options prompt
