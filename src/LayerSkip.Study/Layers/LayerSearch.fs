namespace LayerSkip

open System
open System.Collections.Generic

/// How layers to leave out are looked for.
type LayerSearchOptions = {
    /// How many to leave out; None: as many as bring the most tokens a millisecond, on the machine at hand.
    Skipped: int option
    /// New tokens of the model's own after each prompt, by which sets are scored.
    NewTokens: int
    /// Sets to try after CLaSp's.
    Tries: int
    Seed: int64
}

/// A layer set, and what it is worth.
[<NoComparison>]
type FoundLayers = {
    Layers: LayerSet
    /// The share of the model's own tokens that it says after those before them.
    Agreement: float
    /// The agreement from which on it pays.
    BreakEven: float
    /// The draft length that brings the most at this agreement, and the tokens a millisecond that are then to be expected, over
    /// those of plain decoding: under 1 it does not pay.
    DraftLength: int
    Ratio: float
    /// How many sets had been scored when it was found the best.
    Scored: int
}

/// Layer sets for models that were never trained to exit early: by CLaSp's dynamic programming on hidden states (arXiv 2505.24196), then
/// by SWIFT's random search (arXiv 2410.06916), both over the model's own greedy texts after some prompts.
[<RequireQualifiedAccess>]
module LayerSearch =
    /// As many layers as pay, 64 tokens of each text, 60 tries.
    let options: LayerSearchOptions = { Skipped = None; NewTokens = 64; Tries = 60; Seed = 1L }

    let private faults (config: LlamaConfig) (options: LayerSearchOptions) (prompts: int[][]) = [
        yield! ExitLayer.TryCreate(config.Layers, 1) |> Check.faults
        yield! Check.atLeast 2 "new-tokens" options.NewTokens
        yield! Check.atLeast 0 "tries" options.Tries

        for skipped in Option.toList options.Skipped do
            let most = max 1 (config.Layers - 1)
            let inside = skipped >= 1 && skipped <= most
            yield! Check.inRange inside "skipped" (string skipped) (LayerSkipError.oneTo most)

        if prompts.Length = 0 then
            LayerSkipError.EmptyPrompt

        for prompt in prompts do
            yield! PromptIds.faults config prompt

            // Two tokens: one to go on from, and one to be right about.
            if prompt.Length > 0 && prompt.Length + 2 > config.Context then
                LayerSkipError.PromptTooLong(prompt.Length + 1, config.Context)
    ]

    /// Sets by their scores, each scored once.
    [<Sealed>]
    type private Judge(texts: ScoredText list, parts: PassParts) =
        let rows = texts |> List.sumBy _.Rows
        let scored = Dictionary<LayerSet, FoundLayers>()

        member _.Of(set: LayerSet) : FoundLayers =
            match scored.TryGetValue set with
            | true, found -> found
            | _ ->
                let right = texts |> List.sumBy (fun text -> text.Right set)
                let agreement = float right / float rows
                let struct (length, ratio) = LayerTimes.best parts set agreement

                let found = {
                    Layers = set
                    Agreement = agreement
                    BreakEven = LayerTimes.breakEven parts set
                    DraftLength = length
                    Ratio = ratio
                    Scored = scored.Count + 1
                }

                scored.Add(set, found)
                found

        member _.Scored = scored.Count

    let private draw (key: Key) (items: 'T list) : 'T * Key =
        let struct (u, key) = Key.uniform key
        items[int (u * float items.Length)], key

    let private ofKept (layers: int) (kept: int list) = LayerSet.ofLayers layers kept |> Check.getOrRaise

    /// Any set of so many layers, as likely as another.
    let private anySet (layers: int) count (key: Key) : LayerSet * Key =
        let rec take chosen rest key =
            if List.length chosen = count then
                ofKept layers chosen, key
            else
                let layer, key = draw key rest
                take (layer :: chosen) (List.except [ layer ] rest) key

        take [ 1 ] [ 2..layers ] key

    /// A set with one layer more or fewer where the number may change, or one exchanged for another.
    let private neighbour mayResize (set: LayerSet) (key: Key) : LayerSet * Key =
        let kept = set.KeptLayers
        let loose, left = List.except [ 1 ] kept, List.except kept [ 1 .. set.Layers ]

        let drawAny (layers: int list) key =
            if layers.IsEmpty then
                [], key
            else
                let layer, key = draw key layers
                [ layer ], key

        let gone, key = drawAny loose key
        let come, key = drawAny left key

        let changes = [
            if not gone.IsEmpty && not come.IsEmpty then
                gone, come
            if mayResize && not gone.IsEmpty then
                gone, []
            // The whole model drafts for nobody.
            if mayResize && left.Length > 1 then
                [], come
        ]

        if changes.IsEmpty then
            set, key
        else
            let (gone, come), key = draw key changes
            ofKept set.Layers (List.except gone kept @ come), key

    /// The best of a start, of its neighbours and theirs, and every fourth time of a set at random, SWIFT's own proposal.
    let private climb
        (options: LayerSearchOptions)
        (judge: Judge)
        (worth: FoundLayers -> float)
        (start: LayerSet)
        =
        let propose (best: FoundLayers) attempt key =
            if attempt % 4 = 0 then
                anySet best.Layers.Layers best.Layers.Count key
            else
                neighbour options.Skipped.IsNone best.Layers key

        let rec go best attempt key =
            if attempt > options.Tries then
                best
            else
                let set, key = propose best attempt key
                let found = judge.Of set
                go (if worth found > worth best then found else best) (attempt + 1) key

        go (judge.Of start) 1 (Key.ofSeed options.Seed)

    let private withTexts (weights: Weights) (options: LayerSearchOptions) (prompts: int[][]) body =
        let config = weights.Config

        Check.all (faults config options prompts) ()
        |> Result.bind (fun () ->
            Check.guard (fun () ->
                let texts = ResizeArray<ScoredText>()

                try
                    for prompt in prompts do
                        let tokens = min options.NewTokens (config.Context - prompt.Length)
                        texts.Add(new ScoredText(weights, prompt, tokens))

                    let length = prompts |> Array.averageBy (fun prompt -> float prompt.Length)
                    let parts = LayerTimes.measure weights (int length + options.NewTokens / 2)
                    let texts = List.ofSeq texts
                    Ok(body texts parts (Judge(texts, parts)))
                finally
                    for text in texts do
                        (text :> IDisposable).Dispose()))

    /// CLaSp's set of every number of layers left out, from 0 on, each then improved by so many tries that keep the number.
    let bySkipped
        (weights: Weights)
        (options: LayerSearchOptions)
        (prompts: int[][])
        : Result<PassParts * FoundLayers list, LayerSkipError list> =
        let layers = weights.Config.Layers

        withTexts weights options prompts (fun texts parts judge ->
            let improve (set: LayerSet, _) = {
                climb { options with Skipped = Some set.Skipped } judge _.Agreement set with
                    Scored = judge.Scored
            }

            parts, LayerPath.find layers texts (layers - 1) |> Array.map improve |> List.ofArray)

    /// The best set for a model, by its own greedy texts after some prompts of ids. Errors: a model of one layer, options outside their
    /// ranges, no prompt, one that leaves no room for two tokens, ids outside the vocabulary, and numbers that overflow.
    let find
        (weights: Weights)
        (options: LayerSearchOptions)
        (prompts: int[][])
        : Result<FoundLayers, LayerSkipError list> =
        let layers = weights.Config.Layers

        let worth =
            match options.Skipped with
            | Some _ -> _.Agreement
            | None -> _.Ratio

        withTexts weights options prompts (fun texts _ judge ->
            let paths =
                LayerPath.find layers texts (defaultArg options.Skipped (layers - 1)) |> Array.map fst

            let start =
                match options.Skipped with
                | Some skipped -> paths[skipped]
                | None -> paths |> Array.skip 1 |> Array.maxBy (judge.Of >> worth)

            { climb options judge worth start with Scored = judge.Scored })

    /// What an option names: a set as `LayerSet.tryParse` reads it, or "auto": the one that the model's folder recommends, else the best
    /// one found after `prompts`, the first 32 tokens of each, in seconds. With what was found, where it was looked for.
    let named
        (checkpoint: Checkpoint)
        (text: string)
        (prompts: int[][])
        : Result<LayerSet * FoundLayers option, LayerSkipError list> =
        if text <> "auto" then
            LayerSet.tryParse checkpoint.Config.Layers text |> Result.map (fun set -> set, None)
        else
            DraftLayers.recommended checkpoint
            |> Result.bind (function
                | Some set -> Ok(set, None)
                | None ->
                    find checkpoint.Weights { options with NewTokens = 32; Tries = 0 } prompts
                    |> Result.map (fun found -> found.Layers, Some found))
