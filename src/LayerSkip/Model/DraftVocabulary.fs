namespace LayerSkip

open System
open System.Collections.Generic

/// What the records of a draft vocabulary share: the head's rows, and whose they are.
[<Sealed>]
type VocabularyRows internal (slab: Slab, capacity: int) =
    let head = slab.Narrow capacity
    let ids = Array.zeroCreate<int> capacity
    let places = Dictionary<int, int>()
    let mutable turn = 0

    member internal _.Slab = slab
    member internal _.Head = head
    member internal _.Ids = ids
    member internal _.Capacity = capacity
    member internal _.Count = places.Count
    member internal _.Turn = turn

    member internal _.TryPlace(id: int) : int voption =
        match places.TryGetValue id with
        | true, place -> ValueSome place
        | _ -> ValueNone

    /// Behind those that are there, as many as there is room for of those that are new.
    member internal _.Add(wanted: int[]) : unit =
        let first = places.Count

        for id in wanted do
            if places.Count < capacity && places.TryAdd(id, places.Count) then
                ids[places.Count - 1] <- id

        if places.Count > first then
            head.Add ids[first .. places.Count - 1]

    member internal _.Clear() : unit =
        turn <- turn + 1
        places.Clear()
        head.Clear()

/// Some ids of a vocabulary, for drafts to be chosen from: an immutable claim on the first `Count` of rows that are gathered from the
/// head, in memory that belongs to a cache's slab and goes with it. The whole model, which judges drafts by its whole head, writes the same
/// text whatever stands here.
[<NoEquality; NoComparison>]
type DraftVocabulary = internal {
    Rows: VocabularyRows
    Turn: int
    /// How many ids there are.
    Count: int
}

[<RequireQualifiedAccess>]
module DraftVocabulary =
    let private check (vocabulary: DraftVocabulary) =
        if vocabulary.Turn <> vocabulary.Rows.Turn then
            invalidOp "this draft vocabulary was renewed: use the one that the last renewal returned"

    /// Whose rows they are, if that is `slab`, or over the states of `slab`, if that is of an adapter of those.
    let internal head (slab: Slab) (vocabulary: DraftVocabulary) : NarrowHead =
        let rows = vocabulary.Rows
        let isLent = slab.Lender |> Option.exists (fun lender -> obj.ReferenceEquals(lender, rows.Slab))

        if not (isLent || obj.ReferenceEquals(slab, rows.Slab)) then
            invalidArg (nameof vocabulary) "this draft vocabulary is another cache's: create one for this one"

        check vocabulary

        if vocabulary.Count = 0 then
            invalidOp "this draft vocabulary has no id yet"

        if isLent then rows.Head.Over slab.Sequence else rows.Head

    /// An empty one for drafts over a cache, of at most `capacity` ids, which it has memory for from now on.
    let create (capacity: int) (cache: Cache) : DraftVocabulary =
        if capacity < 1 then
            invalidArg (nameof capacity) $"a draft vocabulary of {capacity} ids"

        let most = min capacity cache.Slab.Weights.Config.Vocabulary
        { Rows = new VocabularyRows(cache.Slab, most); Turn = 0; Count = 0 }

    /// The most ids.
    let capacity (vocabulary: DraftVocabulary) : int = vocabulary.Rows.Capacity

    /// How many ids there are.
    let count (vocabulary: DraftVocabulary) : int = vocabulary.Count

    /// The id at a place: that of a column of `Model.narrowLogits`.
    let id (place: int) (vocabulary: DraftVocabulary) : int =
        check vocabulary
        ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(place, vocabulary.Count, nameof place)
        vocabulary.Rows.Ids[place]

    /// All of them, by place.
    let ids (vocabulary: DraftVocabulary) : int[] =
        check vocabulary
        vocabulary.Rows.Ids[.. vocabulary.Count - 1]

    /// The place of an id: a column of `Model.narrowLogits`.
    let tryPlace (id: int) (vocabulary: DraftVocabulary) : int voption =
        check vocabulary

        match vocabulary.Rows.TryPlace id with
        | ValueSome place when place < vocabulary.Count -> ValueSome place
        | _ -> ValueNone

    /// Whether an id is among them.
    let contains (id: int) (vocabulary: DraftVocabulary) : bool = (tryPlace id vocabulary).IsSome

    let private checkIds (vocabulary: DraftVocabulary) (ids: int[]) =
        let size = vocabulary.Rows.Slab.Weights.Config.Vocabulary

        match ids |> Array.tryFind (fun id -> id < 0 || id >= size) with
        | Some id -> invalidArg (nameof ids) (LayerSkipError.message (LayerSkipError.UnknownToken(id, size)))
        | None -> ()

    let private latest (rows: VocabularyRows) = { Rows = rows; Turn = rows.Turn; Count = rows.Count }

    /// With those of `ids` that it has not, behind the others, while there is room; for the work of what is new. Earlier records stay good to
    /// choose from, but the latest alone takes more: an InvalidOperationException else.
    let add (ids: int[]) (vocabulary: DraftVocabulary) : DraftVocabulary =
        checkIds vocabulary ids
        let rows = vocabulary.Rows

        rows.Slab.During(fun () ->
            check vocabulary

            if vocabulary.Count <> rows.Count then
                invalidOp
                    $"this draft vocabulary was overtaken: use the one that the last addition returned ({vocabulary.Count} < {rows.Count} ids)"

            rows.Add ids
            latest rows)

    /// With `ids` alone, in the same memory; earlier records are then of no use, and say so.
    let renew (ids: int[]) (vocabulary: DraftVocabulary) : DraftVocabulary =
        checkIds vocabulary ids
        let rows = vocabulary.Rows

        rows.Slab.During(fun () ->
            check vocabulary
            rows.Clear()
            rows.Add ids
            latest rows)

    /// The id of each row's largest logit, of equal ones the lowest.
    let argmax (vocabulary: DraftVocabulary) (logits: Logits) : int[] =
        check vocabulary
        Logits.argmaxOf vocabulary.Rows.Ids logits

    /// The same, and its probability among these ids (softmax), good to six digits. Of a row with a NaN or infinity 0 and 0.
    let choices (vocabulary: DraftVocabulary) (logits: Logits) : struct (int * float)[] =
        check vocabulary
        Logits.choicesOf vocabulary.Rows.Ids logits

    /// Numbers by place as numbers by id, over the whole vocabulary: 0 where it has no place. Of a law it makes a law.
    let scatter (values: float[]) (vocabulary: DraftVocabulary) : float[] =
        check vocabulary
        let whole = Array.zeroCreate vocabulary.Rows.Slab.Weights.Config.Vocabulary

        for place in 0 .. vocabulary.Count - 1 do
            whole[vocabulary.Rows.Ids[place]] <- values[place]

        whole
