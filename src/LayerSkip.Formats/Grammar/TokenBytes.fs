namespace LayerSkip

open System
open System.Collections.Generic
open System.Runtime.CompilerServices

/// A set of token ids: few of them as they are, many as bits.
[<RequireQualifiedAccess; NoEquality; NoComparison>]
type internal TokenSet =
    | Few of ids: int[]
    | Many of words: uint64[]

/// What the tokens of a vocabulary do in an automaton, from one of its positions on.
[<NoEquality; NoComparison>]
type internal TokenReach = {
    /// Tokens that the automaton can read whole.
    Inside: TokenSet
    /// Nodes of the trie at which the automaton's text may be over, and after which tokens go on.
    Exits: int[]
}

/// The bytes that each token of a vocabulary stands for, as a trie. Immutable; threads and grammars may share it, and should:
/// it remembers what its tokens do within the strings and numbers that all JSON has in common.
///
/// Nodes are numbered in the order of a walk, each followed by all that is under it, so that a walk is a loop over arrays: where
/// a byte is refused, it goes on behind the node's last descendant.
[<Sealed>]
type TokenBytes internal (bytes: byte[][]) =
    let isSafe (item: byte[]) = not (isNull item) && item.Length > 0

    // Ordered by their bytes: those that begin alike stand together.
    let ordered =
        let ids = [|
            for id in 0 .. bytes.Length - 1 do
                if isSafe bytes[id] then
                    id
        |]
        let byBytes =
            Comparison(fun a b ->
                match bytes[a].AsSpan().SequenceCompareTo(ReadOnlySpan bytes[b]) with
                | 0 -> compare a b
                | order -> order)
        Array.Sort(ids, byBytes)
        ids

    let labels, depths, skips, firsts =
        let labels, depths, skips, firsts = List<byte>(), List<int>(), List<int>(), List<int>()
        // The nodes of the token before.
        let path = List<int>()

        let leave depth =
            while path.Count > depth do
                skips[path[path.Count - 1]] <- labels.Count
                path.RemoveAt(path.Count - 1)

        let mutable before: byte[] = [||]

        for place in 0 .. ordered.Length - 1 do
            let item = bytes[ordered[place]]
            let shared = before.AsSpan().CommonPrefixLength(ReadOnlySpan item)
            leave shared

            for depth in shared .. item.Length - 1 do
                path.Add labels.Count
                labels.Add item[depth]
                depths.Add(depth + 1)
                skips.Add 0
                firsts.Add place

            before <- item

        leave 0
        firsts.Add ordered.Length
        labels.ToArray(), depths.ToArray(), skips.ToArray(), firsts.ToArray()

    let longest = depths |> Array.fold max 0
    let reaches = ConditionalWeakTable<Dfa, Dictionary<int64, TokenReach>>()

    /// As many ids as there are, those that stand for nothing included.
    member _.Count = bytes.Length
    /// The bytes of the longest token.
    member internal _.Longest = longest
    /// The bytes of a token; none where it may never be written.
    member internal _.Item(id: int) : byte[] =
        if id >= 0 && id < bytes.Length && isSafe bytes[id] then
            bytes[id]
        else
            [||]

    /// Words of a bit mask.
    member internal _.Words = (bytes.Length + 63) / 64
    member internal _.Labels = labels
    member internal _.Depths = depths
    /// The node behind all that is under a node.
    member internal _.Skips = skips

    /// Sets the bits of the tokens that end at a node.
    member internal _.Mark(node: int, words: uint64[]) : unit =
        // Of tokens, those up to the next node's first are the node's own.
        for place in firsts[node] .. firsts[node + 1] - 1 do
            let id = ordered[place]
            words[id >>> 6] <- words[id >>> 6] ||| (1UL <<< (id &&& 63))

    /// A set from its bits, which may be kept.
    static member internal Pack(words: uint64[]) : TokenSet =
        let count = words |> Array.sumBy (fun word -> int (UInt64.PopCount word))

        if count > words.Length then
            TokenSet.Many words
        else
            TokenSet.Few [|
                for place in 0 .. words.Length - 1 do
                    let mutable word = words[place]

                    while word <> 0UL do
                        (place <<< 6) + int (UInt64.TrailingZeroCount word)
                        word <- word &&& (word - 1UL)
            |]

    /// Adds a set's bits.
    static member internal Unite(set: TokenSet, words: Span<uint64>) : unit =
        match set with
        | TokenSet.Few ids ->
            for id in ids do
                if id >>> 6 < words.Length then
                    words[id >>> 6] <- words[id >>> 6] ||| (1UL <<< (id &&& 63))
        | TokenSet.Many own ->
            for place in 0 .. min words.Length own.Length - 1 do
                words[place] <- words[place] ||| own[place]

    member private _.Walk(dfa: Dfa, position: int) : TokenReach =
        let words = Array.zeroCreate<uint64>((bytes.Length + 63) / 64)
        let exits = List<int>()
        let positions = Array.zeroCreate<int>(longest + 1)
        positions[0] <- position
        let mutable node = 0

        while node < labels.Length do
            let depth = depths[node]
            let next = dfa.Step(positions[depth - 1], labels[node])

            if next < 0 then
                node <- skips[node]
            else
                positions[depth] <- next

                for place in firsts[node] .. firsts[node + 1] - 1 do
                    let id = ordered[place]
                    words[id >>> 6] <- words[id >>> 6] ||| (1UL <<< (id &&& 63))

                if skips[node] > node + 1 && dfa.IsEnd next then
                    exits.Add node

                node <- if dfa.HasMoves next then node + 1 else skips[node]

        { Inside = TokenBytes.Pack words; Exits = exits.ToArray() }

    /// What tokens do in an automaton, remembered as long as the automaton lives.
    member internal this.Reach(dfa: Dfa, position: int) : TokenReach =
        lock reaches (fun () ->
            let known = reaches.GetValue(dfa, fun _ -> Dictionary())
            let key = dfa.Key(position, longest)

            match known.TryGetValue key with
            | true, reach -> reach
            | _ ->
                let reach = this.Walk(dfa, position)
                known[key] <- reach
                reach)

/// Makes the bytes of vocabularies.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TokenBytes =
    /// Of these tokens, by id; one of no bytes is never written.
    let ofBytes (bytes: byte[][]) : TokenBytes = TokenBytes(Array.map Array.copy bytes)

    /// The bytes that a tokenizer's ids add to a text that goes on (`Tokenizer.decodeContinuing`). Special tokens stand for
    /// none: no grammar lets them come, but for the ids that end a text.
    let ofTokenizer (tokenizer: Tokenizer) : TokenBytes =
        TokenBytes(Array.init (Tokenizer.vocabularySize tokenizer) (tokenizer.Bytes false))
