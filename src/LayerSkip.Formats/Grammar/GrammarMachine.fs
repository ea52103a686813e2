namespace LayerSkip

open System
open System.Collections.Generic

/// What may still come, unread: ways, each a part and what follows it. `Ends`: also nothing. Interned, so that equal ones are
/// one object.
[<Sealed; AllowNullLiteral>]
type internal GrammarRest(id: int, ends: bool, ways: struct (GrammarPart * GrammarRest)[]) =
    member _.Id = id
    member _.Ends = ends
    member _.Ways = ways
    /// With every way's first automaton begun.
    member val Begun: GrammarNode = null with get, set

/// Where a text stands: positions within automata, each with what follows the automaton's text. `Ends`: the text may be
/// over. A pushdown automaton's configurations, with common stacks shared. Interned.
and [<Sealed; AllowNullLiteral>] internal GrammarNode
    (id: int, ends: bool, heads: struct (Dfa * int * GrammarRest)[], epoch: int) =
    member _.Id = id
    member _.Ends = ends
    member _.Heads = heads
    /// After each byte, where that has been asked for; of the machine's epoch.
    member val Next: GrammarNode[] = null with get, set
    member val Allowed: TokenSet voption = ValueNone with get, set
    member val Epoch = epoch with get, set

/// A grammar over a vocabulary at work: steps, and which tokens may come, each worked out once. The masks follow XGrammar (Dong
/// et al. 2024, arXiv 2411.15100, section 3.1): what a token does within the automaton at hand is looked up, and only tokens
/// that go beyond its end are tried against what follows. Ambiguity costs no more than the grammar's size: ways that
/// stand at the same place of an automaton are one, with what follows them united.
///
/// For one thread at a time: whoever shares it locks it.
[<Sealed>]
type internal GrammarMachine(grammar: Grammar, tokens: TokenBytes) =
    // Bounds for what is remembered; beyond it, it begins anew.
    let mostNodes, mostWords = 1 <<< 15, 8_000_000L

    let byIds = {
        new IEqualityComparer<int[]> with
            member _.Equals(a, b) = a.AsSpan().SequenceEqual(ReadOnlySpan b)
            member _.GetHashCode ids =
                let mutable hash = HashCode()

                for id in ids do
                    hash.Add id
                hash.ToHashCode()
    }

    let partIds = Dictionary<obj, int>(HashIdentity.Reference)
    let rests = Dictionary<int[], GrammarRest> byIds
    let nodes = Dictionary<int[], GrammarNode> byIds
    let unions = Dictionary<struct (int * int), GrammarRest>()
    let repeats = Dictionary<struct (int * int * int), GrammarPart>()
    let beyonds = Dictionary<struct (int * int), TokenSet>()
    let mutable lastId = 0
    let mutable epoch = 0
    let mutable words = 0L

    let newId () =
        lastId <- lastId + 1
        lastId

    let idOf (part: obj) =
        match partIds.TryGetValue part with
        | true, id -> id
        | _ ->
            let id = newId ()
            partIds[part] <- id
            id

    let rest ends (ways: struct (GrammarPart * GrammarRest)[]) : GrammarRest =
        let key = Array.zeroCreate (1 + 2 * ways.Length)
        key[0] <- if ends then 1 else 0
        ways
        |> Array.iteri (fun i (struct (part, next)) ->
            key[1 + 2 * i] <- idOf part
            key[2 + 2 * i] <- next.Id)

        match rests.TryGetValue key with
        | true, known -> known
        | _ ->
            let made = GrammarRest(newId (), ends, ways)
            rests[key] <- made
            made

    let follow (part: GrammarPart) (next: GrammarRest) = rest false [| struct (part, next) |]

    // What either allows. Ways of the same part are one, and what follows them is united in turn.
    let rec unite (a: GrammarRest) (b: GrammarRest) : GrammarRest =
        if Object.ReferenceEquals(a, b) then
            a
        else
            let key = struct (min a.Id b.Id, max a.Id b.Id)

            match unions.TryGetValue key with
            | true, known -> known
            | _ ->
                let ways = Dictionary<int, struct (GrammarPart * GrammarRest)>()

                for struct (part, next) in Seq.append a.Ways b.Ways do
                    let id = idOf part

                    ways[id] <-
                        match ways.TryGetValue id with
                        | true, struct (_, other) -> struct (part, unite other next)
                        | _ -> struct (part, next)

                let sorted = ways |> Seq.sortBy _.Key |> Seq.map _.Value |> Array.ofSeq
                let made = rest (a.Ends || b.Ends) sorted
                unions[key] <- made
                made

    let repeat (part: GrammarPart) least most =
        let key = struct (idOf part, least, most)

        match repeats.TryGetValue key with
        | true, known -> known
        | _ ->
            let made = GrammarPart.Repeat(part, least, most)
            repeats[key] <- made
            made

    /// Heads as they are found, those at the same position united.
    let gather
        (found: Dictionary<struct (int * int), struct (Dfa * int * GrammarRest)>)
        (dfa: Dfa)
        position
        next
        =
        let key = struct (idOf dfa, position)

        found[key] <-
            match found.TryGetValue key with
            | true, struct (_, _, other) -> struct (dfa, position, unite other next)
            | _ -> struct (dfa, position, next)

    let node ends (found: Dictionary<struct (int * int), struct (Dfa * int * GrammarRest)>) : GrammarNode =
        let key = Array.zeroCreate (1 + 3 * found.Count)
        key[0] <- if ends then 1 else 0
        let heads = found |> Seq.sortBy _.Key |> Seq.map _.Value |> Array.ofSeq

        heads
        |> Array.iteri (fun i (struct (dfa, position, next)) ->
            key[1 + 3 * i] <- idOf dfa
            key[2 + 3 * i] <- position
            key[3 + 3 * i] <- next.Id)

        match nodes.TryGetValue key with
        | true, known -> known
        | _ ->
            let made = GrammarNode(newId (), ends, heads, epoch)
            nodes[key] <- made
            made

    let start (from: GrammarRest) : GrammarNode =
        let found = Dictionary()
        let seen = HashSet<struct (int * int)>()
        let pending = Stack<struct (GrammarPart * GrammarRest)>()
        let ends = ref false

        let enter (rest: GrammarRest) =
            ends.Value <- ends.Value || rest.Ends

            for way in rest.Ways do
                pending.Push way

        enter from

        while pending.Count > 0 do
            let struct (part, next) = pending.Pop()

            if seen.Add(struct (idOf part, next.Id)) then
                match part with
                | GrammarPart.Empty -> enter next
                | GrammarPart.Text dfa ->
                    if dfa.HasMoves 0 then
                        gather found dfa 0 next
                    if dfa.IsEnd 0 then
                        enter next
                | GrammarPart.Both(first, second) -> pending.Push(struct (first, follow second next))
                | GrammarPart.Either parts ->
                    for part in parts do
                        pending.Push(struct (part, next))
                | GrammarPart.Repeat(part, least, most) ->
                    if most <> 0 then
                        let again = repeat part (max 0 (least - 1)) (if most < 0 then -1 else most - 1)
                        pending.Push(struct (part, follow again next))
                    if least = 0 then
                        enter next
                | GrammarPart.Rule rule -> pending.Push(struct (rule.Body, next))

        node ends.Value found

    let begun (rest: GrammarRest) : GrammarNode =
        if isNull rest.Begun || rest.Begun.Epoch <> epoch then
            rest.Begun <- start rest
        rest.Begun

    // Forgets everything but the nodes that others hold, which are as good as new.
    let forget () =
        rests.Clear()
        nodes.Clear()
        unions.Clear()
        repeats.Clear()
        beyonds.Clear()
        partIds.Clear()
        words <- 0L
        epoch <- epoch + 1

    let refresh (node: GrammarNode) =
        if node.Epoch <> epoch then
            node.Next <- null
            node.Allowed <- ValueNone
            node.Epoch <- epoch

    let move (at: GrammarNode) (b: byte) : GrammarNode =
        let found = Dictionary()
        let mutable ends = false

        for struct (dfa, position, next) in at.Heads do
            let position = dfa.Step(position, b)

            if position >= 0 then
                if dfa.HasMoves position then
                    gather found dfa position next

                if dfa.IsEnd position then
                    let after = begun next
                    ends <- ends || after.Ends

                    for struct (dfa, position, next) in after.Heads do
                        gather found dfa position next

        node ends found

    let step (at: GrammarNode) (b: byte) : GrammarNode =
        refresh at

        if isNull at.Next then
            at.Next <- Array.zeroCreate 256
        if isNull at.Next[int b] then
            at.Next[int b] <- move at b
        at.Next[int b]

    let dead () = node false (Dictionary())
    let isDead (node: GrammarNode) = node.Heads.Length = 0 && not node.Ends

    // Tokens that go on from a node of the trie, where the text stands at `from`.
    let walk (from: GrammarNode) (exit: int) (found: uint64[]) (path: GrammarNode[]) =
        let stop = tokens.Skips[exit]
        path[tokens.Depths[exit]] <- from
        let mutable at = exit + 1

        while at < stop do
            let depth = tokens.Depths[at]
            let next = step path[depth - 1] tokens.Labels[at]

            if isDead next then
                at <- tokens.Skips[at]
            else
                path[depth] <- next
                tokens.Mark(at, found)
                at <- at + 1

    let sizeOf (set: TokenSet) =
        match set with
        | TokenSet.Few ids -> ids.Length / 2
        | TokenSet.Many own -> own.Length

    // A set to remember, which counts for how much is.
    let packed (found: uint64[]) : TokenSet =
        let set = TokenBytes.Pack found
        words <- words + int64 (sizeOf set)
        set

    // Tokens that go beyond the end of the automaton at hand, into what follows it.
    let beyond (reach: TokenReach) (next: GrammarRest) : TokenSet =
        let key = struct (reach.Id, next.Id)

        match beyonds.TryGetValue key with
        | true, known -> known
        | _ ->
            let found = Array.zeroCreate<uint64> tokens.Words
            let path = Array.zeroCreate<GrammarNode>(tokens.Longest + 1)
            let after = begun next

            if after.Heads.Length > 0 then
                for exit in reach.Exits do
                    walk after exit found path

            let set = packed found
            beyonds[key] <- set
            set

    let allowed (at: GrammarNode) : TokenSet =
        let found = Array.zeroCreate<uint64> tokens.Words

        for struct (dfa, position, next) in at.Heads do
            let reach = tokens.Reach(dfa, position)
            TokenBytes.Unite(reach.Inside, found.AsSpan())

            if reach.Exits.Length > 0 then
                TokenBytes.Unite(beyond reach next, found.AsSpan())

        packed found

    let over = GrammarRest(0, true, [||])

    /// Before the first byte.
    member _.Start: GrammarNode = start (follow grammar.Root over)

    /// Where the text stands after a token; dead (`IsDead`) where it may not come.
    member _.After(at: GrammarNode, id: int) : GrammarNode =
        if nodes.Count > mostNodes || words > mostWords then
            forget ()

        match tokens.Item id with
        | [||] -> dead ()
        | bytes -> Array.fold step at bytes

    /// Where no text stands.
    member _.Dead: GrammarNode = dead ()
    member _.IsDead(at: GrammarNode) = isDead at

    /// The tokens that may come.
    member _.Allowed(at: GrammarNode) : TokenSet =
        refresh at

        match at.Allowed with
        | ValueSome known -> known
        | ValueNone ->
            let set = allowed at
            at.Allowed <- ValueSome set
            set
