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
    /// No other of the vocabulary has it.
    Id: int
    /// Tokens that the automaton can read whole.
    Inside: TokenSet
    /// Nodes of the trie at which the automaton's text may be over, and after which tokens go on.
    Exits: int[]
}

/// The same in a quoted text whose characters are counted, for every count at once: what needs how many.
[<NoEquality; NoComparison>]
type internal CountedReach = {
    /// At n, bits of the tokens that do not close the text and take up to n characters; the last has all.
    UpTo: uint64[][]
    /// Tokens that end with the text, and how many characters they bring.
    Closing: struct (int * int)[]
    /// `TokenReach.Exits`, and how many characters come before the end of the text.
    Leaving: struct (int * int)[]
    /// By what is needed and what there is room for.
    Known: Dictionary<struct (int * int), TokenReach>
}

/// Sets of token ids as bits, 64 to a word.
[<RequireQualifiedAccess>]
module internal TokenBits =
    /// Adds an id, for which there is room.
    let inline add (id: int) (words: Span<uint64>) : unit =
        words[id >>> 6] <- words[id >>> 6] ||| (1UL <<< (id &&& 63))

    /// Takes an id away, for which there is room.
    let inline remove (id: int) (words: Span<uint64>) : unit =
        words[id >>> 6] <- words[id >>> 6] &&& ~~~(1UL <<< (id &&& 63))

/// A trie whose nodes are numbered in the order of a walk, each followed by all that is under it, so that a walk is a loop over arrays: where
/// a byte is refused, it goes on behind the node's last descendant.
[<RequireQualifiedAccess>]
module internal TokenTrie =
    /// Calls `visit` with each node that an automaton which does not count can come to from `start`, the state there and the
    /// state before. Of nodes: their bytes, depths, and the nodes behind all that is under them. Inlined: it is what a grammar's first
    /// texts spend most of their time with.
    let inline walk
        (labels: byte[])
        (depths: int[])
        (skips: int[])
        (longest: int)
        (dfa: Dfa)
        (start: int)
        ([<InlineIfLambda>] visit: int -> int -> int -> unit)
        : unit =
        let struct (classes, table, ends) = dfa.Table
        let width = table.Length / ends.Length
        let path = Array.zeroCreate<int>(longest + 1)
        path[0] <- start
        let mutable node = 0

        while node < labels.Length do
            let depth = depths[node]
            let before = path[depth - 1]
            let next = table[before * width + int classes[int labels[node]]]

            if next < 0 then
                node <- skips[node]
            else
                path[depth] <- next
                visit node next before
                node <- node + 1

/// The bytes that each token of a vocabulary stands for, as a trie. Immutable; threads and grammars may share it, and should:
/// it remembers what its tokens do within the strings and numbers that all JSON has in common.
[<Sealed>]
type TokenBytes internal (bytes: byte[][]) =
    let isSafe (item: byte[]) = not (isNull item) && item.Length > 0

    // As a number that is ordered as they are.
    let firstEight (item: byte[]) =
        let mutable value = 0UL

        for place in 0..7 do
            value <- (value <<< 8) ||| (if place < item.Length then uint64 item[place] else 0UL)
        value

    // Ordered by their bytes: those that begin alike stand together. The first eight tell most apart.
    let ordered =
        let ids = [|
            for id in 0 .. bytes.Length - 1 do
                if isSafe bytes[id] then
                    id
        |]
        let byBytes =
            Comparer.Create(fun a b ->
                match bytes[a].AsSpan().SequenceCompareTo(ReadOnlySpan bytes[b]) with
                | 0 -> compare a b
                | order -> order)

        let keys = ids |> Array.map (fun id -> firstEight bytes[id])
        Array.Sort(keys, ids)
        let mutable first = 0

        while first < ids.Length do
            let mutable next = first + 1

            while next < ids.Length && keys[next] = keys[first] do
                next <- next + 1

            Array.Sort(ids, first, next - first, byBytes)
            first <- next

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
    let reaches = ConditionalWeakTable<Dfa, Dictionary<int, TokenReach>>()
    let countedReaches = ConditionalWeakTable<Dfa, Dictionary<int, CountedReach>>()
    let mutable lastId = 0

    let reach inside exits : TokenReach =
        lastId <- lastId + 1
        { Id = lastId; Inside = inside; Exits = exits }

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
        let words = words.AsSpan()

        // Of tokens, those up to the next node's first are the node's own.
        for place in firsts[node] .. firsts[node + 1] - 1 do
            TokenBits.add ordered[place] words

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
                    TokenBits.add id words
        | TokenSet.Many own ->
            for place in 0 .. min words.Length own.Length - 1 do
                words[place] <- words[place] ||| own[place]

    [<MethodImpl(MethodImplOptions.AggressiveOptimization)>]
    member private this.Plain(dfa: Dfa, state: int) : TokenReach =
        let skips, firsts, ordered = skips, firsts, ordered
        let struct (_, _, ends) = dfa.Table
        let words = Array.zeroCreate<uint64> this.Words
        let exits = List<int>()

        TokenTrie.walk labels depths skips longest dfa state (fun node next _ ->
            for place in firsts[node] .. firsts[node + 1] - 1 do
                TokenBits.add ordered[place] (words.AsSpan())

            if ends[next] && skips[node] > node + 1 then
                exits.Add node)

        reach (TokenBytes.Pack words) (exits.ToArray())

    member private this.Counted(dfa: Dfa, state: int) : CountedReach =
        let counts = Array.zeroCreate<int>(longest + 1)
        let needed = List<struct (int * int)>()
        let closing, leaving = List<struct (int * int)>(), List<struct (int * int)>()

        TokenTrie.walk labels depths skips longest dfa state (fun node next before ->
            let depth = depths[node]
            let isWhole = next = dfa.Between && before <> 0
            let count = counts[depth - 1] + (if isWhole then 1 else 0)
            counts[depth] <- count

            if dfa.IsEnd next then
                for place in firsts[node] .. firsts[node + 1] - 1 do
                    closing.Add(struct (ordered[place], count))
                if skips[node] > node + 1 then
                    leaving.Add(struct (node, count))
            else
                // A character that has begun needs its place.
                let count = if next = dfa.Between then count else count + 1

                for place in firsts[node] .. firsts[node + 1] - 1 do
                    needed.Add(struct (ordered[place], count)))

        let most = needed |> Seq.fold (fun most (struct (_, count)) -> max most count) 0
        let upTo = Array.init (most + 1) (fun _ -> Array.zeroCreate<uint64> this.Words)

        for struct (id, count) in needed do
            TokenBits.add id (upTo[count].AsSpan())

        for count in 1..most do
            TokenBytes.Unite(TokenSet.Many upTo[count - 1], upTo[count].AsSpan())

        {
            UpTo = upTo
            Closing = closing.ToArray()
            Leaving = leaving.ToArray()
            Known = Dictionary()
        }

    /// Of an automaton that counts: told from what holds for every count.
    member private this.Among(dfa: Dfa, position: int) : TokenReach =
        let struct (state, least, room) = dfa.Counts position
        let known = countedReaches.GetValue(dfa.Plain, fun _ -> Dictionary())

        let all =
            match known.TryGetValue state with
            | true, all -> all
            | _ ->
                let all = this.Counted(dfa.Plain, state)
                known[state] <- all
                all

        // No token brings more characters than it has bytes.
        let least, room = min least (longest + 1), min room (longest + 1)

        match all.Known.TryGetValue(struct (least, room)) with
        | true, found -> found
        | _ ->
            let words = Array.copy all.UpTo[min room (all.UpTo.Length - 1)]
            let isWithin count = least <= count && count <= room

            for struct (id, count) in all.Closing do
                if isWithin count then
                    TokenBits.add id (words.AsSpan())

            let exits =
                all.Leaving
                |> Array.filter (fun struct (_, count) -> isWithin count)
                |> Array.map (fun struct (node, _) -> node)

            let found = reach (TokenBytes.Pack words) exits
            all.Known[struct (least, room)] <- found
            found

    /// What tokens do in an automaton, remembered as long as the automaton lives; counted texts share what they have in common.
    member internal this.Reach(dfa: Dfa, position: int) : TokenReach =
        lock reaches (fun () ->
            if not (isNull dfa.Plain) then
                this.Among(dfa, position)
            else
                let known = reaches.GetValue(dfa, fun _ -> Dictionary())

                match known.TryGetValue position with
                | true, reach -> reach
                | _ ->
                    let reach = this.Plain(dfa, position)
                    known[position] <- reach
                    reach)

/// Makes the bytes of vocabularies.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TokenBytes =
    /// Of these tokens, by id; one of no bytes is never written.
    let ofBytes (bytes: byte[][]) : TokenBytes = TokenBytes(Array.map Array.copy bytes)

    let private known = ConditionalWeakTable<Tokenizer, TokenBytes>()

    /// The bytes that a tokenizer's ids add to a text that goes on (`Tokenizer.decodeContinuing`); the same object for the same
    /// tokenizer. Special tokens stand for none: no grammar lets them come, but for the ids that end a text.
    let ofTokenizer (tokenizer: Tokenizer) : TokenBytes =
        let bytes (tokenizer: Tokenizer) =
            Array.init (Tokenizer.vocabularySize tokenizer) (tokenizer.Bytes false)

        known.GetValue(tokenizer, fun tokenizer -> TokenBytes(bytes tokenizer))
