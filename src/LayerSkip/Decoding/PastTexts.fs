namespace LayerSkip

open System

/// Texts that were written before, for drafts of texts to come: the newest ones, up to a number of tokens. It may be shared by any
/// number of threads, and kept as long as a process lives.
[<Sealed>]
type PastTexts(limit: int) =
    do
        if limit < 1 then
            invalidArg (nameof limit) $"past texts hold at least one token, not {limit}"

    let adding = obj ()
    let mutable texts: int[] list = []
    let mutable held = 0
    let mutable tree = SuffixTree(SuffixIndex.longest, 0)

    // A lookup waits for a few of them: about half a millisecond.
    let piece = 256

    let put (tree: SuffixTree) (text: int[]) =
        for start in 0..piece .. text.Length - 1 do
            lock tree (fun () ->
                for token in text.AsSpan(start, min piece (text.Length - start)) do
                    tree.Append token)

        lock tree tree.Close

    /// Tokens of which a new one may take the place of the oldest, so that room is made for many at once.
    let kept = max 1 (limit - limit / 4)

    /// About as many tokens as 30 to 40 MB hold.
    static member DefaultLimit = 1 <<< 18

    /// The most tokens that are held.
    member _.Limit = limit

    /// The tokens that are held.
    member _.Count = lock adding (fun () -> held)

    /// The texts that are held, the oldest first.
    member _.Texts: int[][] = lock adding (fun () -> Array.ofList (List.rev texts))

    member _.Bytes: int64 = lock adding (fun () -> 4L * int64 held + tree.Bytes)

    /// Adds a finished text, prompt and all. Where they are then more than `Limit` tokens, the oldest texts go, until three
    /// quarters of that are left; of a text that is longer than that by itself its ending stays.
    member _.Add(text: ReadOnlySpan<int>) : unit =
        let text = text.Slice(max 0 (text.Length - kept)).ToArray()

        if text.Length > 0 then
            lock adding (fun () ->
                texts <- text :: texts
                held <- held + text.Length

                if held <= limit then
                    put tree text
                else
                    let room = Seq.scan (fun sum (text: int[]) -> sum + text.Length) 0 texts |> Seq.skip 1
                    texts <-
                        Seq.zip texts room
                        |> Seq.takeWhile (fun (_, sum) -> sum <= kept)
                        |> Seq.map fst
                        |> List.ofSeq
                    held <- texts |> List.sumBy _.Length
                    let fresh = SuffixTree(SuffixIndex.longest, held)
                    List.rev texts |> List.iter (put fresh)
                    // Lookups use the old one until the new one is whole.
                    tree <- fresh)

    /// What followed the longest ending of `text` that is in these: up to `ahead` tokens, and as many as it is long.
    member _.Lookup(ahead: int, text: ReadOnlySpan<int>) : SuffixDraft =
        let tree = tree
        let ending = text.Slice(max 0 (text.Length - SuffixIndex.longest)).ToArray()
        lock tree (fun () -> SuffixIndex.draftAfter ahead (tree.Find(ReadOnlySpan ending)) tree)
