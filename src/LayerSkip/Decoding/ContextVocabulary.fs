namespace LayerSkip

open System

/// Which ids drafts are chosen from in place of the whole vocabulary, whose head is most of what a draft of few layers costs. What a text
/// says next is mostly among its own ids, those that the whole model lately held likely, and the frequent ones (MicroSpec,
/// arXiv 2605.26444; a frequency list alone is FR-Spec's, arXiv 2502.14856). A missing id costs a refused draft, never another text: the
/// whole model judges by its whole head.
type ContextVocabulary = {
    /// There from the start and for good.
    Frequent: int[]
    /// Whether the ids of prompt and text join.
    HasText: bool
    /// How many of the likeliest ids join of each row at which the whole model had the last word.
    Likeliest: int
    /// The most ids; when they are reached, it begins anew from the frequent ones, the latest of the text and the likeliest.
    Capacity: int
}

[<RequireQualifiedAccess>]
module ContextVocabulary =
    /// Of each row so many ids join where nothing else is said.
    let defaultLikeliest = 16

    /// A list of ids alone, whatever the text.
    let ofList (frequent: int[]) : ContextVocabulary = {
        Frequent = Array.distinct frequent
        HasText = false
        Likeliest = 0
        Capacity = max 1 frequent.Length
    }

    /// Frequent ids and the context's.
    let around (frequent: int[]) : ContextVocabulary = {
        ofList frequent with
            HasText = true
            Likeliest = defaultLikeliest
            Capacity = frequent.Length + max 512 (frequent.Length / 2)
    }

    /// What pays where nothing else is known: around the first twelfth of the ids, an eighth of the vocabulary at most. None where the head
    /// costs less than two layers, of which refused drafts would then cost more.
    let auto (config: LlamaConfig) : ContextVocabulary option =
        if config.HeadInLayers < 2.0 then
            None
        else
            Some(around (FrequencyList.firstIds (config.Vocabulary / 12) config.Vocabulary))

    /// As an option names one: "auto", "all" (None), a number of first ids, or a file's frequency list, with the context of either. A number
    /// that is not above 0 is an OutOfRange of `option`; a file as `FrequencyList.load` has it.
    let parse
        (option: string)
        (config: LlamaConfig)
        (word: string)
        : Result<ContextVocabulary option, LayerSkipError list> =
        match word, Number.tryWhole word with
        | "auto", _ -> Ok(auto config)
        | "all", _ -> Ok None
        | _, Some count when count >= config.Vocabulary -> Ok None
        | _, Some count when count > 0 -> Ok(Some(around (FrequencyList.firstIds count config.Vocabulary)))
        | _, Some _ ->
            Check.outOfRange option word "auto, all, a number of ids above 0, or a file with a list of ids"
        | _, None -> FrequencyList.load config.Vocabulary word |> Result.map (around >> Some)

    let private takesMore (plan: ContextVocabulary) = plan.HasText || plan.Likeliest > 0

    /// Every fault: ids outside the vocabulary, numbers below 0, no id to begin with, and no room for those that join.
    let faults (vocabulary: int) (plan: ContextVocabulary) : LayerSkipError list = [
        let room = if takesMore plan then 1 else 0
        yield! Check.atLeast 0 "likeliest" plan.Likeliest
        yield! Check.atLeast (max 1 (plan.Frequent.Length + room)) "capacity" plan.Capacity

        if plan.Frequent.Length = 0 && not plan.HasText then
            LayerSkipError.Unsupported(
                "a draft vocabulary without an id",
                "give frequent ids, or let the text's join"
            )

        for id in plan.Frequent |> Seq.filter (fun id -> id < 0 || id >= vocabulary) |> Seq.truncate 1 do
            LayerSkipError.UnknownToken(id, vocabulary)
    ]

    /// The latest ids of a text, each once, as many as may be.
    let private latest (most: int) (text: ReadOnlySpan<int>) : int[] =
        let found = Collections.Generic.HashSet<int>()
        let mutable at = text.Length - 1

        while at >= 0 && found.Count < most do
            found.Add text[at] |> ignore
            at <- at - 1

        Seq.toArray found

    /// What is there from the start, with as much of the text as leaves half of the room beside it free.
    let private beginning (text: ReadOnlySpan<int>) (plan: ContextVocabulary) : int[] =
        let room = plan.Capacity - plan.Frequent.Length
        Array.append plan.Frequent (if plan.HasText then latest ((room + 1) / 2) text else [||])

    /// The one that drafts over a cache begin with, of a prompt.
    let start (prompt: ReadOnlyMemory<int>) (cache: Cache) (plan: ContextVocabulary) : DraftVocabulary =
        DraftVocabulary.create plan.Capacity cache
        |> DraftVocabulary.add (beginning prompt.Span plan)

    /// The one of the next round: with the round's tokens and what the whole model held likely there. `text` ends with them.
    let learn
        (text: ReadOnlyMemory<int>)
        (tokens: int[])
        (likeliest: int[][])
        (vocabulary: DraftVocabulary)
        (plan: ContextVocabulary)
        : DraftVocabulary =
        if not (takesMore plan) then
            vocabulary
        else
            let fresh =
                Array.append (if plan.HasText then tokens else [||]) (Array.concat likeliest)
                |> Array.filter (fun id -> not (DraftVocabulary.contains id vocabulary))
                |> Array.distinct

            if vocabulary.Count + fresh.Length <= DraftVocabulary.capacity vocabulary then
                DraftVocabulary.add fresh vocabulary
            else
                vocabulary
                |> DraftVocabulary.renew (Array.append (beginning text.Span plan) (Array.concat likeliest))
