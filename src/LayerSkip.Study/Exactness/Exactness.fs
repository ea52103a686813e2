namespace LayerSkip

open System.Threading
open TorchSharp

/// The tests T1 to T5 behind the certificate (`Certify`), each a list of findings. `prompts` are ids, `length` is that of
/// the new text, and `grid` has strategies, each with its draft length, which decode each prompt. Once `cancelled` is, they throw
/// OperationCanceledException within a pass.
[<RequireQualifiedAccess>]
module internal Exactness =
    [<Struct>]
    type Grade =
        /// The same token, text, bits or law.
        | Exact
        /// Another token, whose logit is within the gap of the largest: rounding decides between them.
        | Tie
        | Violation

    /// A grade, and the distance from the largest logit that it rests on, as a share of the row's largest |logit|; 0 for
    /// tests that compare no logits.
    type Finding = Grade * float

    let private exactIf holds : Finding = (if holds then Exact else Violation), 0.0

    /// The share of a row's largest |logit| within which a token is a tie.
    let gap (dtype: Dtype) =
        match dtype with
        | Dtype.F64 -> 1e-10
        | Dtype.F32 -> 1e-5
        | Dtype.F16
        | Dtype.BF16 -> 2e-3

    /// Keys and values may differ by rounding alone, of a cache in fewer bits too; a wrong position or row is off by its
    /// own size.
    let private cacheTolerance (weights: Weights) =
        match weights.Kv, ScalarType.activations weights.Device weights.Dtype with
        | Some KvFormat.F16, _ -> 5e-3
        | Some KvFormat.Q8, _ -> 2e-2
        | _, torch.ScalarType.Float64 -> 1e-9
        | _, torch.ScalarType.Float32 -> 1e-3
        | _ -> 5e-2

    /// Runs `body` over a new cache, without gradients.
    let private overCache (weights: Weights) exit positions (body: Cache -> 'T) : 'T =
        use _inference = Scope.inference ()
        let cache = Cache.create weights exit positions
        use _storage = cache.Slab
        body cache

    /// Logits of the last `rows` ids from hidden states after so many layers.
    let private finiteLogits (weights: Weights) layers rows (ids: int[]) (hidden: Hidden) : float[][] =
        Model.logits hidden
        |> Overflow.guard weights layers (fun row -> Array.truncate (ids.Length - rows + row + 1) ids)
        |> Logits.toFloats

    /// Logits after the last id of a prompt and after each id that follows it, by a pass of the whole model over either:
    /// the prompt is read as a decoding reads it.
    let private teacherForced (weights: Weights) (prompt: int[]) (following: int[]) : float[][] =
        let text = Array.append prompt following

        overCache weights weights.Config.Layers text.Length (fun cache ->
            let read rows (ids: int[]) upTo cache =
                let struct (hidden, cache) = Model.forward weights rows ids cache
                finiteLogits weights weights.Config.Layers rows (Array.truncate upTo text) hidden, cache

            let last, cache = read 1 prompt prompt.Length cache

            if following.Length = 0 then
                last
            else
                Array.append last (fst (read following.Length following text.Length cache)))

    let private judge gap (logits: float[]) (token: int) : Finding =
        let largest = Array.max logits
        let scale = logits |> Array.map abs |> Array.max
        let share = (largest - logits[token]) / max scale 1e-300

        if share = 0.0 then Exact, 0.0
        elif share <= gap then Tie, share
        else Violation, share

    let private everyToken gap weights (prompt: int[]) (tokens: int[]) : Finding list =
        if tokens.Length = 0 then
            []
        else
            let logits = teacherForced weights prompt tokens[.. tokens.Length - 2]
            List.init tokens.Length (fun i -> judge gap logits[i] tokens[i])

    let private sameText gap weights (prompt: int[]) (plain: Completion) (speculative: Completion) : Finding =
        let a, b = plain.TokenIds, speculative.TokenIds

        if a = b && plain.Finish = speculative.Finish then
            Exact, 0.0
        else
            match Seq.zip a b |> Seq.tryFindIndex (fun (a, b) -> a <> b) with
            // One text is the other's beginning: no tie explains that.
            | None -> Violation, 0.0
            | Some at ->
                let logits = teacherForced weights prompt a[.. at - 1] |> Array.last
                let (first, gapA), (second, gapB) = judge gap logits a[at], judge gap logits b[at]
                max Tie (max first second), max gapA gapB

    let private decode cancelled weights strategy maxNewTokens stopIds prompt =
        let options = { GenerationOptions.greedy strategy maxNewTokens with StopIds = stopIds }
        Generation.completeUntil cancelled weights None options prompt |> Check.getOrRaise

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

    /// T1: self-speculation writes the text of autoregressive decoding under every stop rule, or differs from it first between
    /// tokens that both are within the gap.
    let texts
        cancelled
        (weights: Weights)
        gap
        length
        (prompts: int[][])
        (grid: (Strategy * int) list)
        : Finding list = [
        for number, prompt in Array.indexed prompts do
            let plain limit stops = decode cancelled weights Strategy.Autoregressive limit stops prompt
            let unstopped = length, [||]
            let whole = plain length [||]

            for strategy, draftLength in grid do
                // Every stop rule on the first prompt; the rest vary the text.
                let rules =
                    if number = 0 then
                        rules length draftLength whole.TokenIds
                    else
                        [ unstopped ]

                for limit, stops in rules do
                    let own =
                        if (limit, stops) = unstopped then
                            whole
                        else
                            plain limit stops
                    sameText gap weights prompt own (decode cancelled weights strategy limit stops prompt)
    ]

    /// T2: each token of self-speculation against the whole model's logits after the text before it, in one pass.
    let tokens
        cancelled
        (weights: Weights)
        gap
        length
        (prompts: int[][])
        (grid: (Strategy * int) list)
        : Finding list = [
        for prompt in prompts do
            for strategy, _ in grid do
                let made = decode cancelled weights strategy length [||] prompt
                yield! everyToken gap weights prompt made.TokenIds
    ]

    /// The logits that decided each token of a text, by its place in prompt and text.
    let private decisive (cancelled: CancellationToken) weights strategy length prompt =
        let rows = System.Collections.Generic.Dictionary<int, float[]>()

        // A refused draft's rows are overwritten by those of the round after it.
        let keep first logits =
            Logits.toFloats logits |> Array.iteri (fun row values -> rows[first + row] <- values)

        let decoding = { Rounds.greedy weights strategy length with Watch = Some keep }
        let struct (_, standing) = Seq.last (Rounds.run decoding prompt cancelled)
        Array.init (standing.Text.Count - prompt.Length) (fun i -> rows[prompt.Length + i])

    let private sameBits (a: float) (b: float) =
        System.BitConverter.DoubleToInt64Bits a = System.BitConverter.DoubleToInt64Bits b

    /// T3: self-speculation decides every token by the very logits of autoregressive decoding, bit for bit. Only
    /// the CPU kernels promise it: elsewhere a product's last bits depend on how many rows it has.
    let logits
        cancelled
        (weights: Weights)
        length
        (prompts: int[][])
        (grid: (Strategy * int) list)
        : Finding list = [
        if weights.Kernels.IsSome then
            for prompt in prompts do
                let plain = decisive cancelled weights Strategy.Autoregressive length prompt

                for strategy, _ in grid do
                    let own = decisive cancelled weights strategy length prompt

                    if own.Length <> plain.Length then
                        Violation, 0.0

                    for a, b in Seq.zip plain own do
                        exactIf (Array.forall2 sameBits a b)
    ]

    /// The eight most probable classes of a law and the rest as one.
    let private fewClasses (p: float[]) (laws: float[] list) =
        let top = Array.indexed p |> Array.sortByDescending snd |> Array.truncate 7 |> Array.map fst
        laws
        |> List.map (fun law ->
            let kept = top |> Array.map (fun id -> law[id])
            Array.append kept [| max 0.0 (1.0 - Array.sum kept) |])

    /// The laws of the last layer and of an exit's drafts after a prompt, over few classes.
    let private laws
        (weights: Weights)
        (plan: ContextVocabulary option)
        (exits: ExitLayer list)
        (prompt: int[])
        =
        let at (layer: int) plan =
            overCache weights layer prompt.Length (fun cache ->
                let struct (hidden, cache) = Model.forwardEarly weights prompt cache
                let whole = finiteLogits weights layer 1 prompt hidden

                match plan with
                | None -> Sampling.softmax whole[0]
                | Some plan ->
                    let some = ContextVocabulary.start (System.ReadOnlyMemory prompt) cache plan
                    let narrow = Model.narrowLogits some hidden |> Logits.toFloats
                    DraftVocabulary.scatter (Sampling.softmax narrow[0]) some)

        let p = at weights.Config.Layers None
        exits |> List.map (fun exit -> fewClasses p [ p; at exit.Layers plan ])

    /// T4: sampled speculation keeps the whole model's law, over nine classes of tokens: 20,000 first tokens are as frequent
    /// as they should be, and the law of a round of one draft and of two is exact, every refusal counted out.
    let sampling
        (cancelled: CancellationToken)
        (weights: Weights)
        plan
        seed
        (prompts: int[][])
        exits
        : Finding list =
        let pairs =
            prompts
            |> Array.map (fun prompt ->
                cancelled.ThrowIfCancellationRequested()
                laws weights plan exits prompt)
            |> List.concat

        [
            for number, pair in List.indexed pairs do
                cancelled.ThrowIfCancellationRequested()
                let counts = SamplingLaw.firstTokens pair[0] pair[1] 20_000 (seed + int64 number)
                exactIf (SamplingLaw.chiSquare pair[0] counts < 6.0)

            // Laws that change with the text: one pair or another, by what was written.
            let after side (text: int list) =
                pairs[List.sum (List.mapi (fun i token -> (i + 1) * (token + 1)) text) % pairs.Length].Item
                    side

            for draftLength in 1..2 do
                exactIf (SamplingLaw.worstError (after 0) (after 1) draftLength < 1e-12)
        ]

    // Texts of each prompt, and tokens of each: enough to tell a law by ten classes of places, and no more than a slow model bears.
    let private drawnTexts, drawnTokens = 24, 8

    /// T4, live: texts that are drawn through drafts fall in the whole model's laws as they should (`SamplingLaw.place`), at temperature 1.
    let drawn
        cancelled
        (weights: Weights)
        seed
        length
        (prompts: int[][])
        (grid: (Strategy * int) list)
        : Finding list =
        let sampling = Sampling.create 1.0 0 1.0 |> Check.getOrRaise

        [
            for strategy, _ in grid do
                let mutable key = Key.ofSeed seed

                let places = [
                    for prompt in prompts do
                        for text in 1..drawnTexts do
                            let options = {
                                GenerationOptions.greedy strategy (min length drawnTokens) with
                                    Sampling = sampling
                                    Seed = seed + int64 text
                            }

                            let made =
                                Generation.completeUntil cancelled weights None options prompt
                                |> Check.getOrRaise

                            let logits =
                                teacherForced weights prompt made.TokenIds[.. made.TokenIds.Length - 2]

                            for place, token in Array.indexed made.TokenIds do
                                let struct (u, next) = Key.uniform key
                                key <- next
                                SamplingLaw.place (Sampling.softmax logits[place]) token u
                ]

                exactIf (SamplingLaw.uniformity 10 places < 6.0)
        ]

    let private relative (a: Tensor) (b: Tensor) =
        if a.shape <> b.shape then
            infinity
        else
            Tensors.toFloats ((a - b).abs().max() / b.abs().max()) |> Array.head

    /// T5: after each round the cache is that of a fresh prefill of the same text, but for rounding; a rewinding that crops
    /// wrongly shows here.
    let caches
        cancelled
        (weights: Weights)
        length
        (prompts: int[][])
        (grid: (Strategy * int) list)
        : Finding list =
        let layers, tolerance = weights.Config.Layers, cacheTolerance weights

        let compare (prompt: int[]) (text: int[]) (cache: Cache) =
            overCache weights layers text.Length (fun fresh ->
                let struct (_, fresh) = Model.forward weights 1 prompt fresh
                let struct (_, fresh) = Model.forward weights 1 text[prompt.Length .. text.Length - 2] fresh

                let distance layer =
                    let struct (k, v) = Cache.layer layer cache
                    let struct (freshK, freshV) = Cache.layer layer fresh
                    max (relative k freshK) (relative v freshV)

                exactIf (Seq.max (Seq.init layers distance) <= tolerance))

        [
            for prompt in prompts do
                for strategy, _ in grid do
                    let decoding = Rounds.greedy weights strategy length

                    // The first is the pass over the prompt.
                    for struct (_, standing) in Seq.tail (Rounds.run decoding prompt cancelled) do
                        compare prompt (standing.Text.ToArray()) standing.Reading.Cache
        ]
