namespace LayerSkip

open System.Collections.Generic

/// A deterministic automaton over bytes whose every position can reach an end. Immutable. `table` has a row for each state
/// and a column for each class of bytes; -1 is no way on.
///
/// With `lengths` it counts: it then is an automaton of a quoted text, whose state after the first byte (the quote) is the one
/// between characters, and the characters between the quotes are `least` to `most` (below 0: any number). A position
/// then holds the count too, so that a bound of a million characters takes no more states than none.
[<Sealed; AllowNullLiteral>]
type internal Dfa(classes: byte[], table: int[], ends: bool[], plain: Dfa, lengths: struct (int * int)) =
    let states = ends.Length
    let width = table.Length / states

    let moves =
        Array.init states (fun state ->
            Seq.exists (fun c -> table[state * width + c] >= 0) (seq { 0 .. width - 1 }))

    let counts = not (isNull plain)
    let struct (least, most) = lengths
    // Past the opening quote.
    let between = table[int classes[int '"']]

    let counted position (b: byte) =
        let state, count = position % states, position / states
        let next = table[state * width + int classes[int b]]

        if next < 0 then
            -1
        elif state = between && ends[next] then
            if count >= least then next else -1
        elif state = between && count = most then
            -1
        elif next = between && state <> 0 then
            // Without an upper bound a count that is high enough stays.
            let count = if most < 0 then min least (count + 1) else count + 1
            next + states * count
        else
            next + states * count

    /// An automaton that does not count.
    new(classes, table, ends) = Dfa(classes, table, ends, null, struct (0, -1))

    /// Classes of bytes, the way from state to state by class, and the states where a text may be over.
    member _.Table = struct (classes, table, ends)
    /// The automaton without its count, where it counts.
    member _.Plain = plain
    /// The state between a quoted text's characters.
    member _.Between = between

    /// The position after a byte, or -1; the first position is 0.
    member _.Step(position: int, b: byte) : int =
        if counts then
            counted position b
        else
            table[position * width + int classes[int b]]

    /// Whether the text may be over here.
    member _.IsEnd(position: int) : bool = ends[position % states]
    /// Whether the text may go on.
    member _.HasMoves(position: int) : bool = moves[position % states]
    /// Whether there is no text at all.
    member _.IsNothing: bool = not (ends[0] || moves[0])

    /// Of one that counts: the state of a position, how many characters are needed and for how many there is room.
    member _.Counts(position: int) : struct (int * int * int) =
        let count = position / states
        let room = if most < 0 then System.Int32.MaxValue else most - count
        struct (position % states, max 0 (least - count), room)

    /// Whether these bytes are a text of the automaton.
    member this.Matches(bytes: byte[]) : bool =
        let last = bytes |> Array.fold (fun at b -> if at < 0 then at else this.Step(at, b)) 0
        last >= 0 && this.IsEnd last

/// Makes automata. What would take too many states is refused (PatternRefused), after bounded work.
[<RequireQualifiedAccess>]
module internal Dfa =
    let private mostStates, mostParts, mostWork = 1 <<< 14, 60_000, 40_000_000L

    let private tooLarge () = PatternReader.Refuse "more states than an automaton may have"

    /// Bytes that the ranges of an expression never part are of one class.
    let private classesOf (starts: HashSet<int>) : byte[] =
        let next last b = if b > 0 && starts.Contains b then last + 1 else last
        Seq.scan next 0 (seq { 1..255 }) |> Seq.map byte |> Array.ofSeq

    /// The automaton of the states that can be reached from `start`, without those from which no end can be.
    let explore
        (classes: byte[])
        (start: 'State)
        (step: 'State -> byte -> 'State voption)
        (isEnd: 'State -> bool)
        : Dfa =
        let width = 1 + int (Array.max classes)
        let sample = Array.init width (fun c -> byte (Array.findIndex ((=) (byte c)) classes))
        let ids = Dictionary<'State, int>()
        let found = List<'State>()
        let rows = List<int[]>()

        let idOf state =
            match ids.TryGetValue state with
            | true, id -> id
            | _ ->
                if found.Count = mostStates then
                    tooLarge ()
                ids[state] <- found.Count
                found.Add state
                found.Count - 1

        idOf start |> ignore

        while rows.Count < found.Count do
            let state = found[rows.Count]

            rows.Add(
                sample
                |> Array.map (fun b ->
                    match step state b with
                    | ValueSome next -> idOf next
                    | ValueNone -> -1)
            )

        // Backwards from the ends.
        let before = Array.init found.Count (fun _ -> List<int>())
        rows
        |> Seq.iteri (fun state row ->
            for next in row do
                if next >= 0 then
                    before[next].Add state)
        let lives = Array.zeroCreate<bool> found.Count
        let queue = Queue<int>()

        let mark state =
            if not lives[state] then
                lives[state] <- true
                queue.Enqueue state

        found
        |> Seq.iteri (fun id state ->
            if isEnd state then
                mark id)

        while queue.Count > 0 do
            for state in before[queue.Dequeue()] do
                mark state

        // The start stays, whatever it is.
        let kept = [|
            for id in 0 .. found.Count - 1 do
                if id = 0 || lives[id] then
                    id
        |]
        let renamed = Array.create found.Count -1
        kept
        |> Array.iteri (fun id old ->
            if lives[old] then
                renamed[old] <- id)

        let table =
            kept
            |> Array.collect (fun old ->
                rows[old] |> Array.map (fun next -> if next < 0 then -1 else renamed[next]))

        Dfa(classes, table, kept |> Array.map (fun old -> isEnd found[old]))

    /// Thompson's automaton of an expression: ways without a byte, and ways with one of a range.
    [<Sealed>]
    type private Parts() =
        let free = List<List<int>>()
        let moves = List<List<struct (byte * byte * int)>>()

        member _.Free = free
        member _.Moves = moves

        member _.New() : int =
            if free.Count = mostParts then
                tooLarge ()
            free.Add(List())
            moves.Add(List())
            free.Count - 1

        /// Where an expression ends that begins at `from`.
        member this.Add(regex: ByteRegex, from: int) : int =
            match regex with
            | ByteRegex.Bytes(first, last) ->
                let next = this.New()
                moves[from].Add(struct (first, last, next))
                next
            | ByteRegex.Sequence items -> items |> List.fold (fun at item -> this.Add(item, at)) from
            | ByteRegex.Choice items ->
                let next = this.New()

                for item in items do
                    let start = this.New()
                    free[from].Add start
                    free[this.Add(item, start)].Add next

                next
            | ByteRegex.Repeat(item, least, most) ->
                let mutable at = from

                for _ in 1..least do
                    at <- this.Add(item, at)

                let next = this.New()
                free[at].Add next

                if most < 0 then
                    free[this.Add(item, next)].Add next
                else
                    for _ in least + 1 .. most do
                        let start = this.New()
                        free[at].Add start
                        at <- this.Add(item, start)
                        free[at].Add next

                next

    /// The automaton of an expression: sets of Thompson's states.
    let ofRegex (regex: ByteRegex) : Dfa =
        let parts = Parts()
        let start = parts.New()
        let stop = parts.Add(regex, start)
        let starts = HashSet<int>()

        for moves in parts.Moves do
            for struct (first, last, _) in moves do
                starts.Add(int first) |> ignore
                starts.Add(int last + 1) |> ignore

        let seen = Array.zeroCreate<int> parts.Free.Count
        let round = ref 0
        let work = ref 0L

        // A set is a text with a character for each state: it compares and hashes as it is.
        let closure (from: List<int>) : string =
            round.Value <- round.Value + 1
            let pending = Stack<int>()
            let kept = List<char>()

            let visit state =
                if seen[state] <> round.Value then
                    seen[state] <- round.Value
                    pending.Push state

            for state in from do
                visit state

            while pending.Count > 0 do
                let state = pending.Pop()
                work.Value <- work.Value + 1L

                // Only what reads a byte or ends tells sets apart.
                if parts.Moves[state].Count > 0 || state = stop then
                    kept.Add(char state)

                for next in parts.Free[state] do
                    visit next

            if work.Value > mostWork then
                tooLarge ()
            kept.Sort()
            System.String(kept.ToArray())

        let step (set: string) (b: byte) =
            let next = List<int>()

            for state in set do
                for struct (first, last, target) in parts.Moves[int state] do
                    if first <= b && b <= last then
                        next.Add target

            work.Value <- work.Value + int64 set.Length

            match next.Count with
            | 0 -> ValueNone
            | _ -> ValueSome(closure next)

        explore (classesOf starts) (closure (List [ start ])) step (fun set -> set.Contains(char stop))

    let private paired (a: Dfa) (b: Dfa) =
        let struct (left, _, _), struct (right, _, _) = a.Table, b.Table
        let starts =
            HashSet [
                for i in 1..255 do
                    if left[i] <> left[i - 1] || right[i] <> right[i - 1] then
                        i
            ]
        classesOf starts

    /// Texts of both. Neither may count.
    let both (a: Dfa) (b: Dfa) : Dfa =
        let step (struct (p, q)) byte =
            match a.Step(p, byte), b.Step(q, byte) with
            | p, q when p < 0 || q < 0 -> ValueNone
            | p, q -> ValueSome(struct (p, q))

        explore (paired a b) (struct (0, 0)) step (fun (struct (p, q)) -> a.IsEnd p && b.IsEnd q)

    /// Texts of `a` that `b` has not. Neither may count.
    let except (a: Dfa) (b: Dfa) : Dfa =
        let step (struct (p, q)) byte =
            match a.Step(p, byte) with
            | -1 -> ValueNone
            | p -> ValueSome(struct (p, (if q < 0 then -1 else b.Step(q, byte))))

        explore (paired a b) (struct (0, 0)) step (fun (struct (p, q)) ->
            a.IsEnd p && not (q >= 0 && b.IsEnd q))

    /// A quoted text's automaton, with bounds for the characters between the quotes; `most` below 0: any number.
    let counting (least: int) (most: int) (quoted: Dfa) : Dfa =
        let struct (classes, table, ends) = quoted.Table
        Dfa(classes, table, ends, quoted, struct (least, most))
