namespace LayerSkip

open System

/// How items are decoded, each in the same ways.
[<NoEquality; NoComparison>]
type internal GenerationSetup = {
    Checkpoint: Checkpoint
    Tokenizer: Tokenizer
    /// By name, with the layers that choose the tokens; the first one is compared with the others.
    Ways: (string * int * Strategy) list
    Options: GenerationOptions
    Samples: int
    Run: string -> Verdict
}

/// One answer, and what it was asked.
type internal DecodedAnswer = {
    PromptTokens: int
    CutTokens: int
    Completion: Completion
    Score: AnswerScore
}

/// An item's answers: decoded in several ways in turn, so that a machine that slows down slows all of them.
[<RequireQualifiedAccess>]
module internal GenerationRun =
    /// Ids of a prompt that leave room for an answer: at most half of the context is kept for it. Cut from the left, as
    /// lm-evaluation-harness does, but for a first id that begins a text. The number of ids that were cut comes with them.
    let prompt
        (tokenizer: Tokenizer)
        (context: int)
        (maxNewTokens: int)
        (text: string)
        : struct (int[] * int) =
        let ids = Tokenizer.encode tokenizer text
        let room = context - min maxNewTokens (context / 2)
        let kept = if Tokenizer.addsBos tokenizer then 1 else 0

        if ids.Length <= room then
            struct (ids, 0)
        else
            let rest = ids[ids.Length - (room - kept) ..]
            struct (Array.append (Array.truncate kept ids) rest, ids.Length - room)

    let private decode (setup: GenerationSetup) (strategy: Strategy) (seed: int64) (text: string) =
        let context = setup.Checkpoint.Config.Context
        let options = { setup.Options with Strategy = strategy; Seed = seed }
        let struct (ids, cut) = prompt setup.Tokenizer context options.MaxNewTokens text

        let completion =
            Generation.complete setup.Checkpoint.Weights (Some setup.Tokenizer) options ids
            |> Check.getOrRaise

        struct (completion, cut)

    let private rotated (by: int) (items: 'T list) =
        let first, rest = List.splitAt (by % items.Length) items
        rest @ first

    /// Decodes a few tokens each way, so that no item's time holds what only the first one pays.
    let warmUp (setup: GenerationSetup) (text: string) : unit =
        let few = { setup with Options.MaxNewTokens = min 8 setup.Options.MaxNewTokens }

        for _, _, strategy in setup.Ways do
            decode few strategy 0L text |> ignore

    let private answer
        (setup: GenerationSetup)
        (turn: Turn)
        isScored
        strategy
        seed
        text
        : DecodedAnswer * string =
        let struct (completion, cut) = decode setup strategy seed text
        let written = defaultArg completion.Text ""

        {
            PromptTokens = completion.PromptIds.Length
            CutTokens = cut
            Completion = completion
            Score =
                if isScored then
                    GenerationScore.ofAnswer setup.Run turn.Scorer written
                else
                    GenerationScore.none
        },
        text + written

    /// One sample of an item: for each turn the answers of all ways, in their order. Each way's later turns go on from its own
    /// answers. `place` says which way begins.
    let private sample (setup: GenerationSetup) (item: GenerationItem) place seed : DecodedAnswer list list =
        let ways = List.indexed setup.Ways

        let turn (texts: string list) (turn: Turn) =
            let answers =
                ways
                |> rotated place
                |> List.map (fun (index, (_, layers, strategy)) ->
                    let isScored =
                        setup.Ways |> List.findIndex (fun (_, others, _) -> others = layers) = index
                    index, answer setup turn isScored strategy seed (texts[index] + turn.Prompt))
                |> List.sortBy fst
                |> List.map snd

            List.map fst answers, List.map snd answers

        item.Turns |> List.mapFold turn (setup.Ways |> List.map (fun _ -> "")) |> fst

    /// All answers to an item, one list a way, turns within samples.
    let answers (setup: GenerationSetup) (place: int) (item: GenerationItem) : DecodedAnswer list list =
        List.init setup.Samples (fun number -> sample setup item place (setup.Options.Seed + int64 number))
        |> List.concat
        |> List.transpose
