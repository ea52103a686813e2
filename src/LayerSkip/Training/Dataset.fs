namespace LayerSkip

/// How texts become samples of one length.
[<RequireQualifiedAccess>]
type Layout =
    /// Windows over all texts, one after another: no place is wasted.
    | Packed
    /// Each text alone, cut to the length; a batch is as long as its longest.
    | Each

/// Samples of up to `Rows` ids from a file. A sample's number says all of it: the epoch, and its place in that epoch's
/// keyed order, so that a run may go on anywhere.
[<NoEquality; NoComparison>]
type Dataset = {
    Tokens: TokenFile
    Layout: Layout
    /// Ids of a sample, the first of which is read only.
    Rows: int
    /// None: in the order of the file.
    Seed: int64 option
}

/// What samples of one length leave of texts that stand alone.
type Coverage = {
    Texts: int
    /// Texts longer than a sample.
    Cut: int
    /// Texts of which a sample has nothing to learn.
    Silent: int
    /// Ids that the file wants learned, and those that are.
    Wanted: int64
    Learned: int64
}

[<RequireQualifiedAccess>]
module Dataset =
    /// Apart from every other use of the same seed.
    let private purpose, splitting = 0x64617461, 0x73706c69

    /// Samples of an epoch. Packed windows overlap by one id: the last of a window is the first that the next one reads.
    let samples (dataset: Dataset) : int =
        match dataset.Layout with
        | Layout.Packed -> int ((dataset.Tokens.Count - 1L) / int64 (dataset.Rows - 1))
        | Layout.Each -> dataset.Tokens.Starts.Length

    /// A permutation of 0 to `count` - 1 (Fisher and Yates), and a number in [0, 1).
    let private shuffled (key: Key) (count: int) : struct (int[] * float) =
        let order = Array.init count id
        let struct (offset, start) = Key.uniform key
        let mutable key = start

        for last in count - 1 .. -1 .. 1 do
            let struct (u, next) = Key.uniform key
            let other = int (u * float (last + 1))
            let moved = order[last]
            order[last] <- order[other]
            order[other] <- moved
            key <- next

        struct (order, offset)

    /// The order of an epoch, and where its first window starts: elsewhere each epoch, so that no id is always near a border.
    let private order (dataset: Dataset) (epoch: int) : struct (int[] * int64) =
        let count = samples dataset

        match dataset.Seed with
        | None -> struct (Array.init count id, 0L)
        | Some seed ->
            let key = Key.ofSeed seed |> Key.within purpose |> Key.within epoch
            let struct (order, u) = shuffled key count
            let spare = dataset.Tokens.Count - 1L - int64 count * int64 (dataset.Rows - 1)
            struct (order, int64 (u * float (spare + 1L)))

    /// Where a text's entries begin in the file, and where they have ended.
    let private bounds (tokens: TokenFile) (text: int) : struct (int64 * int64) =
        struct (tokens.Starts[text],
                Array.tryItem (text + 1) tokens.Starts |> Option.defaultValue tokens.Count)

    let private window (dataset: Dataset) (offset: int64) (place: int) : int[] =
        match dataset.Layout with
        | Layout.Packed -> dataset.Tokens.Read(offset + int64 place * int64 (dataset.Rows - 1), dataset.Rows)
        | Layout.Each ->
            let struct (start, stop) = bounds dataset.Tokens place
            dataset.Tokens.Read(start, int (min (int64 dataset.Rows) (stop - start)))

    /// Samples as a rectangle: what is read only, and what fills it up, learns nothing.
    let private batchOf (samples: int[][]) : Batch =
        let length = samples |> Array.map _.Length |> Array.max |> max 2

        let filled (choose: struct (int * bool) -> int) filler =
            samples
            |> Array.map (fun entries ->
                Array.init length (fun i ->
                    if i < entries.Length then
                        choose (TokenFile.decode entries[i])
                    else
                        filler))

        {
            Ids = filled (fun (struct (id, _)) -> id) 0
            Labels =
                filled (fun (struct (id, isLearned)) -> if isLearned then id else Batch.ignored) Batch.ignored
            Padding = samples |> Array.sumBy (fun entries -> length - entries.Length)
        }

    /// Reads samples by their numbers over all epochs: `reader dataset first count` is samples `first` to
    /// `first` + `count` - 1. The order of the latest epoch is kept between calls.
    let reader (dataset: Dataset) : int64 -> int -> Batch =
        let perEpoch = int64 (samples dataset)
        let mutable latest = struct (-1, struct ([||], 0L))

        let orderOf epoch =
            let struct (known, _) = latest

            if known <> epoch then
                latest <- struct (epoch, order dataset epoch)

            let struct (_, order) = latest
            order

        fun first count ->
            Array.init count (fun i ->
                let number = first + int64 i
                let struct (order, offset) = orderOf (int (number / perEpoch))
                window dataset offset order[int (number % perEpoch)])
            |> batchOf

    /// What is learned where each text stands alone: all but what lies beyond a sample's length. None where they are packed.
    let coverage (dataset: Dataset) : Coverage option =
        let tokens, piece = dataset.Tokens, 1L <<< 16

        let learned first last =
            let mutable count = 0L

            for at in first..piece .. last - 1L do
                for entry in tokens.Read(at, int (min piece (last - at))) do
                    let struct (_, isLearned) = TokenFile.decode entry
                    count <- count + (if isLearned then 1L else 0L)

            count

        let add (sum: Coverage) (number: int) =
            let struct (start, last) = bounds tokens number
            let cut = min last (start + int64 dataset.Rows)
            // The first id has nothing before it that could predict it.
            let inside = learned (start + 1L) cut

            {
                Texts = sum.Texts + 1
                Cut = sum.Cut + (if cut < last then 1 else 0)
                Silent = sum.Silent + (if inside = 0L then 1 else 0)
                Wanted = sum.Wanted + inside + learned cut last
                Learned = sum.Learned + inside
            }

        match dataset.Layout with
        | Layout.Packed -> None
        | Layout.Each ->
            let none = { Texts = 0; Cut = 0; Silent = 0; Wanted = 0L; Learned = 0L }
            Some(Seq.fold add none (seq { 0 .. tokens.Starts.Length - 1 }))

    /// A file of ids as samples of `rows` ids, at least 2; an error where it has not one.
    let create (layout: Layout) (rows: int) (seed: int64 option) (tokens: TokenFile) =
        let dataset = { Tokens = tokens; Layout = layout; Rows = rows; Seed = seed }

        if rows < 2 then
            Check.outOfRange "sequence-length" (string rows) "2 or more"
        elif samples dataset < 1 then
            $"holds {tokens.Count} ids, too few for one sample of {rows}; give more text, or take smaller samples"
            |> Check.bad tokens.Path
        else
            Ok dataset

    /// The first samples, as many as it takes for so many ids to learn, in batches of `size`; all of them where they are
    /// too few, and none where they have nothing to learn.
    let graded (tokens: int) (size: int) (dataset: Dataset) : Batch list =
        let read = reader dataset
        let all = samples dataset

        let rec count taken learned =
            if taken < all && learned < tokens then
                count (taken + 1) (learned + Batch.tokens (read (int64 taken) 1))
            else
                struct (taken, learned)

        match count 0 0 with
        | struct (_, 0) -> []
        | struct (taken, _) -> [
            for first in 0..size .. taken - 1 -> read (int64 first) (min size (taken - first))
          ]

    /// Whether a text belongs to the validation part, by its number among all.
    let isHeldOut (seed: int64) (share: float) (number: int) : bool =
        let struct (u, _) = Key.ofSeed seed |> Key.within splitting |> Key.within number |> Key.uniform
        u < share
