namespace LayerSkip

open System

/// What a text says next if it goes on as it, or another one, did where its ending stood before.
type SuffixDraft = {
    /// Tokens of the longest ending that stood before, at most 64; 0: even the last token is new.
    Matched: int
    /// What followed it, each time the most frequent of what followed all that stands before it, of equals the latest; and
    /// the share of the times that it did.
    Tokens: int[]
    Shares: float[]
    /// The sum of the products of shares up to each token: how many of them would be kept, if shares were probabilities.
    Score: float
}

/// Every ending of a text, and what followed it. Immutable: it is a claim on the beginning of a structure that the texts which grow
/// from one another share, so that a token more is no copy; one that was left behind builds its own when it is asked.
/// About 100 to 200 bytes a token.
[<Sealed>]
type SuffixIndex internal (tree: SuffixTree, count: int) =
    let mutable tree = tree
    member internal _.Tree
        with get () = tree
        and set (fresh: SuffixTree) = tree <- fresh
    /// Tokens of the text.
    member _.Count = count
    /// What the structure takes, which it may share.
    member _.Bytes: int64 = tree.Bytes

/// Lookup by endings (SuffixDecoding, Oliaro et al. 2024, arXiv 2411.04975): as prompt lookup, but of the longest ending there is, and by
/// counts.
[<RequireQualifiedAccess>]
module SuffixIndex =
    /// The longest ending that is looked for.
    let longest = 64

    /// A draft goes on while the product of its shares is at least this.
    let leastProbability = 0.1

    let nothing: SuffixDraft = { Matched = 0; Tokens = [||]; Shares = [||]; Score = 0.0 }

    /// Up to `ahead` tokens, and no more than the match is long.
    let internal draftAfter (ahead: int) (place: SuffixPlace) (tree: SuffixTree) : SuffixDraft =
        let followed = tree.Follow(place, min ahead place.Length, leastProbability)

        if followed.Length = 0 then
            { nothing with Matched = place.Length }
        else
            let shares = followed |> Array.map (fun (struct (_, share)) -> share)

            {
                Matched = place.Length
                Tokens = followed |> Array.map (fun (struct (token, _)) -> token)
                Shares = shares
                Score = Odds.expected shares.Length (Array.get shares)
            }

    /// Of no text.
    let empty: SuffixIndex = SuffixIndex(SuffixTree(longest, 0), 0)

    let private tree (tokens: ReadOnlySpan<int>) : SuffixTree =
        let tree = SuffixTree(longest, tokens.Length)

        for token in tokens do
            tree.Append token

        tree

    /// Runs `body` on a tree of the index's text and no more, which nothing else uses meanwhile.
    let private during (index: SuffixIndex) (body: SuffixTree -> 'T) : 'T =
        let shared = index.Tree

        lock shared (fun () ->
            if shared.Count = index.Count then
                body shared
            else
                // A text that grew from this one has the tree now.
                let own = tree (shared.Tokens.Span.Slice(0, index.Count))
                let result = body own
                index.Tree <- own
                result)

    /// The index of the text and tokens after it.
    let append (tokens: ReadOnlyMemory<int>) (index: SuffixIndex) : SuffixIndex =
        if tokens.Length = 0 then
            index
        elif index.Count = 0 then
            SuffixIndex(tree tokens.Span, tokens.Length)
        else
            during index (fun tree ->
                for token in tokens.Span do
                    tree.Append token

                SuffixIndex(tree, tree.Count))

    /// The index of `text`: for a few tokens' work where it goes on from the index's own.
    let ofText (text: ReadOnlyMemory<int>) (index: SuffixIndex) : SuffixIndex =
        let isBeginning () =
            let known = index.Tree.Tokens.Span.Slice(0, index.Count)
            known.SequenceEqual(text.Span.Slice(0, index.Count))

        let goesOn = index.Count <= text.Length && lock index.Tree isBeginning

        if goesOn then
            append (text.Slice index.Count) index
        else
            append text empty

    /// The tokens that followed the longest ending, up to `ahead` of them and as many as it is long.
    let lookup (ahead: int) (index: SuffixIndex) : SuffixDraft =
        if index.Count = 0 then
            nothing
        else
            during index (fun tree -> draftAfter ahead tree.Ending tree)

    /// What followed where the text with `drafts` after it ended, up to `ahead` tokens: as `lookup`, were they part of the text.
    let lookupAfter (drafts: ReadOnlyMemory<int>) (ahead: int) (index: SuffixIndex) : SuffixDraft =
        if drafts.Length = 0 || index.Count = 0 then
            lookup ahead index
        else
            let drafts = drafts.Slice(max 0 (drafts.Length - longest))
            let ofText = min index.Count (longest - drafts.Length)
            let ending = Array.zeroCreate (ofText + drafts.Length)
            drafts.Span.CopyTo(ending.AsSpan ofText)

            during index (fun tree ->
                tree.Tokens.Span.Slice(index.Count - ofText, ofText).CopyTo(ending.AsSpan())
                draftAfter ahead (tree.Find(ReadOnlySpan ending)) tree)
