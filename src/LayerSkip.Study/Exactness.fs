namespace LayerSkip

open System.Threading
open TorchSharp

/// The checks behind the certificate, each a list of findings.
[<RequireQualifiedAccess>]
module internal Exactness =
    [<Struct>]
    type Finding =
        | Exact
        | Tie
        | Violation

    /// A finding and the gap that it rests on.
    type Check = Finding * float

    let gap (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> 1e-10
        | Dtype.F32 -> 1e-5
        | Dtype.F16
        | Dtype.BF16 -> 2e-3

    /// Keys and values may differ by rounding alone; a wrong position or row is off by its own size.
    let private cacheTolerance device dtype =
        match ScalarType.activations device dtype with
        | torch.ScalarType.Float64 -> 1e-9
        | torch.ScalarType.Float32 -> 1e-3
        | _ -> 5e-2

    /// Logits of the last `rows` ids from hidden states after so many layers.
    let private finiteLogits (weights: Weights) layers rows (ids: int[]) (hidden: Hidden) : float[][] =
        Model.logits hidden
        |> Overflow.guard weights layers (fun row -> Array.truncate (ids.Length - rows + row + 1) ids)
        |> Logits.toFloats

    /// Logits after each of the last `rows` ids, by one pass of the whole model.
    let private teacherForced (weights: Weights) rows (ids: int[]) : float[][] =
        use _noGrad = Scope.noGrad ()
        use _scope = Scope.start ()

        let cache = Cache.create weights weights.Config.Layers ids.Length
        use _storage = cache.Slab :> System.IDisposable
        let struct (hidden, _) = Model.forward weights rows ids cache

        finiteLogits weights weights.Config.Layers rows ids hidden

    let private judge gap (logits: float[]) (token: int) : Check =
        let largest = Array.max logits
        let scale = logits |> Array.map abs |> Array.max
        let share = (largest - logits[token]) / max scale 1e-300

        if share = 0.0 then Exact, 0.0
        elif share <= gap then Tie, share
        else Violation, share

    /// T2: every token against the whole model's logits after the text before it.
    let private everyToken gap weights (prompt: int[]) (tokens: int[]) : Check list =
        if tokens.Length = 0 then
            []
        else
            let read = Array.append prompt tokens[.. tokens.Length - 2]
            let logits = teacherForced weights tokens.Length read
            List.init tokens.Length (fun i -> judge gap logits[i] tokens[i])

    /// T1: equal texts, or a first difference between tokens that both are within the gap.
    let private sameText gap weights (prompt: int[]) (plain: Completion) (speculative: Completion) : Check =
        let a, b = plain.TokenIds, speculative.TokenIds

        if a = b && plain.Finish = speculative.Finish then
            Exact, 0.0
        else
            match Seq.zip a b |> Seq.tryFindIndex (fun (a, b) -> a <> b) with
            // One text is the other's beginning: no tie explains that.
            | None -> Violation, 0.0
            | Some at ->
                let logits = (teacherForced weights 1 (Array.append prompt a[.. at - 1]))[0]
                let (first, gapA), (second, gapB) = judge gap logits a[at], judge gap logits b[at]
                (if first = Violation || second = Violation then
                     Violation
                 else
                     Tie),
                max gapA gapB

    let private decode weights strategy maxNewTokens stopIds prompt =
        Generation.complete
            weights
            None
            { GenerationOptions.greedy strategy maxNewTokens with StopIds = stopIds }
            prompt
        |> Check.getOrRaise

    /// Stop rules and limits to try on a text: every length up to a round's, and stops inside a draft.
    let private rules length draftLength (text: int[]) =
        [
            length, [||]
            for limit in [ 1; 2; draftLength; draftLength + 1; draftLength + 2 ] do
                if limit < length then
                    limit, [||]
            for at in [ 0; 1; text.Length / 3; text.Length / 2 ] do
                if at < text.Length then
                    length, [| text[at] |]
        ]
        |> List.distinct

    let texts (weights: Weights) gap length (prompts: int[][]) grid = [
        for number, prompt in Array.indexed prompts do
            for exit: ExitLayer, draftLength in grid do
                let plain limit stops = decode weights Strategy.Autoregressive limit stops prompt
                let whole = plain length [||]

                // Every stop rule on the first prompt; the rest vary the text.
                let rules =
                    if number = 0 then
                        rules length draftLength whole.TokenIds
                    else
                        [ length, [||] ]

                for limit, stops in rules do
                    let own =
                        if (limit, stops) = (length, [||]) then
                            whole
                        else
                            plain limit stops
                    let strategy = Strategy.SelfSpeculative(exit, draftLength)
                    sameText gap weights prompt own (decode weights strategy limit stops prompt)
    ]

    let tokens (weights: Weights) gap length (prompts: int[][]) grid = [
        for prompt in prompts do
            for exit, draftLength in grid do
                let made = decode weights (Strategy.SelfSpeculative(exit, draftLength)) length [||] prompt
                yield! everyToken gap weights prompt made.TokenIds
    ]

    /// The logits that decided each token of a text, by its place in prompt and text.
    let private decisive weights strategy length prompt =
        let rows = System.Collections.Generic.Dictionary<int, float[]>()

        // A refused draft's rows are overwritten by those of the round after it.
        let keep first logits =
            Logits.toFloats logits |> Array.iteri (fun row values -> rows[first + row] <- values)

        let decoding = { Rounds.greedy weights strategy length with Watch = Some keep }
        let struct (_, standing) = Seq.last (Rounds.run decoding prompt CancellationToken.None)
        Array.init (standing.Text.Count - prompt.Length) (fun i -> rows[prompt.Length + i])

    let private sameBits (a: float) (b: float) =
        System.BitConverter.DoubleToInt64Bits a = System.BitConverter.DoubleToInt64Bits b

    /// T3: self-speculation decides every token by the very logits of autoregressive decoding, bit for bit. Only
    /// the CPU kernels promise it: elsewhere a product's last bits depend on how many rows it has.
    let logits (weights: Weights) length (prompts: int[][]) grid : Check list = [
        if weights.Kernels.IsSome then
            for prompt in prompts do
                let plain = decisive weights Strategy.Autoregressive length prompt

                for exit, draftLength in grid do
                    let own = decisive weights (Strategy.SelfSpeculative(exit, draftLength)) length prompt

                    if own.Length <> plain.Length then
                        Violation, 0.0

                    for a, b in Seq.zip plain own do
                        (if Array.forall2 sameBits a b then Exact else Violation), 0.0
    ]

    /// The eight most probable classes of a law and the rest as one.
    let private fewClasses (p: float[]) (laws: float[] list) =
        let top = Array.indexed p |> Array.sortByDescending snd |> Array.truncate 7 |> Array.map fst
        laws
        |> List.map (fun law ->
            let kept = top |> Array.map (fun id -> law[id])
            Array.append kept [| max 0.0 (1.0 - Array.sum kept) |])

    /// The laws of the last layer and of an exit after a prompt, over few classes.
    let private laws (weights: Weights) (exits: ExitLayer list) (prompt: int[]) =
        let at (layer: int) =
            use _noGrad = Scope.noGrad ()
            use _scope = Scope.start ()

            let cache = Cache.create weights layer prompt.Length
            use _storage = cache.Slab :> System.IDisposable
            let struct (hidden, _) = Model.forwardEarly weights prompt cache
            (finiteLogits weights layer 1 prompt hidden)[0] |> Sampling.softmax

        let p = at weights.Config.Layers
        exits |> List.map (fun exit -> fewClasses p [ p; at exit.Layers ])

    let sampling (weights: Weights) seed (prompts: int[][]) exits : Check list =
        let pairs = prompts |> Array.map (laws weights exits) |> List.concat

        let verdict holds : Check = (if holds then Exact else Violation), 0.0

        [
            for number, pair in List.indexed pairs do
                let counts = SamplingLaw.firstTokens pair[0] pair[1] 20_000 (seed + int64 number)
                verdict (SamplingLaw.chiSquare pair[0] counts < 6.0)

            // Laws that change with the text: one pair or another, by what was written.
            let after side (text: int list) =
                pairs[List.sum (List.mapi (fun i token -> (i + 1) * (token + 1)) text) % pairs.Length].Item
                    side

            for draftLength in 1..2 do
                verdict (SamplingLaw.worstError (after 0) (after 1) draftLength < 1e-12)
        ]

    let caches (weights: Weights) length (prompts: int[][]) grid =
        let tolerance = cacheTolerance weights.Device weights.Dtype

        let compare (text: int[]) (cache: Cache) : Check =
            use _noGrad = Scope.noGrad ()
            use _scope = Scope.start ()

            let fresh = Cache.create weights weights.Config.Layers text.Length
            use _storage = fresh.Slab :> System.IDisposable
            let read = text[.. text.Length - 2]
            let struct (_, fresh) = Model.forward weights 1 read fresh

            let distance layer =
                let struct (k, v) = Cache.layer layer cache
                let struct (freshK, freshV) = Cache.layer layer fresh

                let relative (a: Tensor) (b: Tensor) =
                    if a.shape <> b.shape then
                        infinity
                    else
                        Tensors.toFloats ((a - b).abs().max() / b.abs().max()) |> Array.head

                max (relative k freshK) (relative v freshV)

            let worst = Seq.init weights.Config.Layers distance |> Seq.max
            (if worst <= tolerance then Exact else Violation), 0.0

        [
            for prompt in prompts do
                for exit, draftLength in grid do
                    let decoding = Rounds.greedy weights (Strategy.SelfSpeculative(exit, draftLength)) length

                    // The first is the pass over the prompt.
                    for struct (_, standing) in Seq.tail (Rounds.run decoding prompt CancellationToken.None) do
                        compare (standing.Text.ToArray()) standing.Reading.Cache
        ]
