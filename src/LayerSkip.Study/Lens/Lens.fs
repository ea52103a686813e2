namespace LayerSkip

open System
open System.Threading

/// The logit lens over a text.
[<RequireQualifiedAccess>]
module Lens =
    /// The 5 most probable tokens of every layer, without logits.
    let options: LensOptions = { TopK = 5; Layers = []; Logits = false }

    /// Positions whose exits are read between two looks at a cancellation.
    let private piece = 64

    let private faults (checkpoint: Checkpoint) (options: LensOptions) (ids: int[]) = [
        let config = checkpoint.Config

        yield! PromptIds.faults config ids
        let top = options.TopK
        yield!
            Check.inRange
                (1 <= top && top <= config.Vocabulary)
                "top-k"
                (string top)
                $"1 to {config.Vocabulary}"

        for layer in options.Layers do
            let isThere = 1 <= layer && layer <= config.Layers
            yield! Check.inRange isThere "layers" (string layer) (LayerSkipError.oneTo config.Layers)

        let each = if checkpoint.Weights.Dtype = Dtype.F64 then 8L else 4L
        let hidden = int64 config.Layers * int64 ids.Length * int64 config.Hidden * each
        yield!
            Memory.faults (fun () -> $"a lens over {ids.Length} positions of {config.Layers} layers") hidden
    ]

    /// Copies of what every layer leaves at every position, read as decoding reads a prompt.
    let private statesOf (weights: Weights) (cancelled: CancellationToken) (ids: int[]) : ExitStates[] =
        let cache = { Cache.create weights weights.Config.Layers ids.Length with Cancelled = cancelled }
        use _storage = cache.Slab
        let states = ResizeArray()
        let visit layer hidden = states.Add(ExitStates.ofHidden layer hidden)
        Model.forwardEach weights ids.Length ids visit cache |> ignore
        states.ToArray()

    /// What every layer says, [layer][position].
    let private read weights (topK: int) (cancelled: CancellationToken) (ids: int[]) (states: ExitStates[]) =
        let next position =
            if position + 1 < ids.Length then
                [| ids[position + 1] |]
            else
                [||]

        let ofPiece first =
            cancelled.ThrowIfCancellationRequested()
            let count = min piece (ids.Length - first)
            let ask = { Top = topK; Targets = Array.init count (fun row -> next (first + row)) }
            states |> Array.map (ExitStates.rows first count) |> Readout.compared weights ask

        [| 0..piece .. ids.Length - 1 |]
        |> Array.map ofPiece
        |> Array.transpose
        |> Array.map Array.concat

    /// The logits after every layer at the last position, [layer][vocabulary].
    let private logits weights (states: ExitStates[]) : float[][] =
        states
        |> Array.map (fun exit ->
            let last = ExitStates.rows (int exit.States.shape[1] - 1) 1 exit
            SharedHead.logits weights last.States |> Tensors.toFloats)

    /// The first layer from which on all choose as the last one does, given each layer's choice.
    let internal settled (choices: int[]) : int =
        let others = choices |> Array.tryFindIndexBack (fun choice -> choice <> Array.last choices)
        others |> Option.map (fun index -> index + 2) |> Option.defaultValue 1

    let private exitOf (layer: int) (rows: ComparedRow[]) : LensExit =
        let agrees = rows |> Array.filter (fun row -> row.Row.Argmax = row.Final.Id)
        let nexts = rows |> Array.collect _.Row.Targets

        {
            Layer = layer
            Rows = rows
            Agreement = float agrees.Length / float rows.Length
            MeanKl = rows |> Array.averageBy _.Kl
            MeanEntropy = rows |> Array.averageBy _.Row.Entropy
            CrossEntropy =
                if nexts.Length = 0 then
                    None
                else
                    Some(-(nexts |> Array.averageBy _.LogProbability))
        }

    /// A token's text with its spaces; as the vocabulary spells it where it is a part of a character.
    let private textOf (tokenizer: Tokenizer) (id: int) : string =
        let text = Tokenizer.decodeContinuing true tokenizer [ id ]

        if text = "" || text.Contains '\uFFFD' then
            Tokenizer.tokenText tokenizer id
        else
            text

    let private texts (checkpoint: Checkpoint) (ids: int[]) (exits: LensExit[]) : Map<int, string> =
        let ofRow (row: ComparedRow) =
            seq {
                row.Final.Id
                yield! row.Row.Top |> Seq.map _.Id
            }

        match checkpoint.Tokenizer with
        | None -> Map.empty
        | Some tokenizer ->
            Seq.append ids (exits |> Seq.collect _.Rows |> Seq.collect ofRow)
            |> Seq.distinct
            |> Seq.map (fun id -> id, textOf tokenizer id)
            |> Map.ofSeq

    let private report (checkpoint: Checkpoint) (options: LensOptions) cancelled (ids: int[]) : LensReport =
        let weights = checkpoint.Weights
        use _inference = Scope.inference ()
        let states = statesOf weights cancelled ids
        let rows = read weights options.TopK cancelled ids states

        let exits = [|
            for layer in 1 .. weights.Config.Layers do
                if
                    options.Layers.IsEmpty
                    || layer = weights.Config.Layers
                    || List.contains layer options.Layers
                then
                    exitOf layer rows[layer - 1]
        |]

        {
            Model = checkpoint.Path
            Dtype = Weights.dtypeName weights
            Compute = Weights.compute weights
            Kv = Weights.kv weights
            Prefill = Prefill.name weights.Prefill
            Layers = weights.Config.Layers
            Vocabulary = weights.Config.Vocabulary
            TopK = options.TopK
            Tokens = Array.copy ids
            Texts = texts checkpoint ids exits
            Exits = exits
            Settled = rows |> Array.map (Array.map _.Row.Argmax) |> Array.transpose |> Array.map settled
            ExitLogits = if options.Logits then Some(logits weights states) else None
        }

    /// What every layer would say after each token of a text; its checks first. Once `cancelled` is, it throws
    /// OperationCanceledException. Errors: no ids, more than the context less one, ids outside the vocabulary, options outside
    /// their range, more hidden states than memory has room for, numbers that overflow.
    let prepare
        (checkpoint: Checkpoint)
        (options: LensOptions)
        (ids: int[])
        : Result<CancellationToken -> LensReport, LayerSkipError list> =
        let start cancelled =
            try
                report checkpoint options cancelled ids
            with :? LayerSkipException as fault ->
                // Where it began, which may be before the layer whose head showed it.
                match Overflow.tryFind checkpoint.Weights checkpoint.Config.Layers ids with
                | Some overflow -> Check.throw overflow
                | None -> raise fault

        Check.all (faults checkpoint options ids) start

    /// `prepare` and its result.
    let run
        (checkpoint: Checkpoint)
        (options: LensOptions)
        (ids: int[])
        : Result<LensReport, LayerSkipError list> =
        Check.guard (fun () ->
            prepare checkpoint options ids |> Result.map (fun start -> start CancellationToken.None))
