namespace LayerSkip

open System
open System.Collections.Generic

/// Two symbols that stand beside each other in some words.
[<Sealed>]
type internal PairUse(left: int, right: int) =
    /// Its symbols, by the number of their pieces.
    member _.Left = left
    member _.Right = right
    /// How often in the text.
    member val Count = 0L with get, set
    /// The words that have, or had, the pair.
    member val Words = List<int>()

/// Words in symbols, `occurrences[word]` of each, and the pairs in them, kept up to date as pairs are merged.
[<Sealed>]
type internal PairCounts(words: int[][], occurrences: int64[]) =
    let lengths = words |> Array.map _.Length
    let pairs = Dictionary<int64, PairUse>()
    let queue = PriorityQueue<PairUse, UInt128>()
    // Since the last call of `queueFresh`.
    let fresh = List<PairUse>()

    // The most frequent first; among equals the one of smaller symbols.
    let order (pair: PairUse) =
        UInt128(uint64 (Int64.MaxValue - pair.Count), (uint64 pair.Left <<< 32) ||| uint64 pair.Right)

    let add left right word =
        let key = Pair.key left right

        let pair =
            match pairs.TryGetValue key with
            | true, pair -> pair
            | _ ->
                let pair = PairUse(left, right)
                pairs.Add(key, pair)
                fresh.Add pair
                pair

        pair.Count <- pair.Count + occurrences[word]

        if pair.Words.Count = 0 || pair.Words[pair.Words.Count - 1] <> word then
            pair.Words.Add word

    let remove left right word =
        let pair = pairs[Pair.key left right]
        pair.Count <- pair.Count - occurrences[word]

    let queueFresh () =
        for pair in fresh do
            queue.Enqueue(pair, order pair)

        fresh.Clear()

    // From the left: of three equal symbols the first two.
    let mergeIn (word: int) left right merged =
        let symbols, length = words[word], lengths[word]
        let mutable at = 0
        let mutable kept = 0

        while at < length do
            if at + 1 < length && symbols[at] = left && symbols[at + 1] = right then
                if kept > 0 then
                    remove symbols[kept - 1] left word
                    add symbols[kept - 1] merged word

                if at + 2 < length then
                    remove right symbols[at + 2] word
                    add merged symbols[at + 2] word

                symbols[kept] <- merged
                at <- at + 2
            else
                symbols[kept] <- symbols[at]
                at <- at + 1

            kept <- kept + 1

        lengths[word] <- kept

    do
        for word in 0 .. words.Length - 1 do
            for left, right in Seq.pairwise words[word] do
                add left right word

        queueFresh ()

    /// Takes the pair to merge next out of the queue, if one occurs `least` times.
    member _.TryTake(least: int64) : PairUse voption =
        let rec take () =
            match queue.TryDequeue() with
            | false, _, _ -> ValueNone
            // A pair only becomes rarer once it is queued.
            | true, pair, _ when pair.Count < least -> take ()
            | true, pair, queuedAs when order pair <> queuedAs ->
                queue.Enqueue(pair, order pair)
                take ()
            | true, pair, _ -> ValueSome pair

        take ()

    /// Makes one symbol of a pair wherever it stands.
    member _.Merge(pair: PairUse, merged: int) : unit =
        for word in pair.Words do
            mergeIn word pair.Left pair.Right merged

        // Its symbols never meet again: each is older than this merge.
        pairs.Remove(Pair.key pair.Left pair.Right) |> ignore
        queueFresh ()

    /// How many symbols the text is.
    member _.Symbols: int64 =
        Seq.fold2 (fun sum length count -> sum + int64 length * count) 0L lengths occurrences

/// Training as GPT-2 and Hugging Face's BpeTrainer do it; pairs of equal count are taken in the order of their
/// symbols, so that a text gives one tokenizer on every machine.
[<RequireQualifiedAccess>]
module internal BpeMerges =
    // Compiling it takes milliseconds.
    let private words =
        lazy (PreTokenizer.split (PreTokenizer.known PreTokenizer.gpt2) SplitBehavior.Isolated false)

    /// Words with how often each occurs; special tokens, which are no text, are cut out.
    let count (specials: string list) (texts: seq<string>) : Dictionary<string, int64> =
        let cut = AddedToken.splitter [ for special in specials -> AddedToken.plain 0 special true ]
        let counts = Dictionary<string, int64>()

        for text in texts do
            for segment in cut text do
                match segment with
                | Segment.Token _ -> ()
                | Segment.Text text ->
                    for word in words.Value { Text = text; Place = Place.First } do
                        counts[word.Text] <- 1L + counts.GetValueOrDefault word.Text

        counts

    /// Merges the most frequent pair again and again until there are `vocabulary` pieces or no pair occurs `least`
    /// times, and appends the pieces that this makes. No merge makes a piece of `taken`. Time is that of the
    /// occurrences that change, not of the text. The merges are in the order in which they were made, as pairs of
    /// symbols.
    let learn
        (vocabulary: int)
        (least: int64)
        (taken: string list)
        (pieces: List<string>)
        (pairs: PairCounts)
        : struct (int * int)[] =
        let merges = List<struct (int * int)>()

        let rec next () =
            match pairs.TryTake least with
            | ValueSome pair when List.contains (pieces[pair.Left] + pieces[pair.Right]) taken -> next ()
            | found -> found

        let mutable isOver = false

        while not isOver && pieces.Count < vocabulary do
            match next () with
            | ValueSome pair ->
                pairs.Merge(pair, pieces.Count)
                merges.Add(struct (pair.Left, pair.Right))
                pieces.Add(pieces[pair.Left] + pieces[pair.Right])
            | ValueNone -> isOver <- true

        merges.ToArray()
