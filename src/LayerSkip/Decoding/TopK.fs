namespace LayerSkip

open System
open System.Buffers
open System.Collections.Generic

/// Values in order, found no further than somebody looks: a vocabulary is wide, and few of its tokens are probable.
[<RequireQualifiedAccess>]
module internal TopK =
    /// So few are put in order by comparing them.
    let private few = 16

    let private mostBuckets = 1 <<< 16

    /// Up to so many are the largest of, without parting the rest.
    let private mostHeld = 1024

    /// Lent memory, of at least so many numbers, which hold anything: for a wide vocabulary new memory costs more than the work.
    let private withInts (count: int) (body: int[] -> 'T) : 'T =
        let ints = ArrayPool.Shared.Rent count

        try
            body ints
        finally
            ArrayPool.Shared.Return ints

    /// An integer that grows with the value.
    let private rank (value: float) : int64 =
        let bits = BitConverter.DoubleToInt64Bits value
        if bits < 0L then bits ^^^ Int64.MaxValue else bits

    /// By insertion, which leaves equal values as they stand.
    let private sortFew (values: float[]) (ids: int[]) first count =
        for i in first + 1 .. first + count - 1 do
            let id = ids[i]
            let mutable at = i

            while at > first && values[ids[at - 1]] < values[id] do
                ids[at] <- ids[at - 1]
                at <- at - 1

            ids[at] <- id

    /// The least and the largest rank among some ids.
    let private range (values: float[]) (ids: int[]) first count : struct (int64 * int64) =
        let mutable least, largest = Int64.MaxValue, Int64.MinValue

        for i in first .. first + count - 1 do
            let rank = rank values[ids[i]]
            least <- min least rank
            largest <- max largest rank

        struct (least, largest)

    /// As they stand, while `visit` says true; false where it said false.
    let private visitAll (ids: int[]) first count (visit: int -> bool) : bool =
        let mutable at = first

        while at < first + count && visit ids[at] do
            at <- at + 1

        at = first + count

    /// Visits ids that stand in rising order, those of the largest values first, while `visit` says true; false where it
    /// said false. They are parted into buckets by their values, and a bucket is put in order when its turn comes.
    let rec private descend (values: float[]) (ids: int[]) first count (visit: int -> bool) : bool =
        if count <= few then
            sortFew values ids first count
            visitAll ids first count visit
        else
            match range values ids first count with
            | struct (least, largest) when least = largest -> visitAll ids first count visit
            | struct (least, largest) ->
                let buckets =
                    int (min (Numerics.BitOperations.RoundUpToPowerOf2(uint32 count)) (uint32 mostBuckets))
                let span = uint64 (largest - least)
                let shift =
                    max
                        0
                        (64
                         - Numerics.BitOperations.LeadingZeroCount span
                         - Numerics.BitOperations.Log2(uint32 buckets))
                let bucket id = int (uint64 (largest - rank values[id]) >>> shift)

                withInts (buckets + 1) (fun ends ->
                    withInts count (fun parted ->
                        Array.Clear(ends, 0, buckets + 1)

                        for i in first .. first + count - 1 do
                            let at = bucket ids[i] + 1
                            ends[at] <- ends[at] + 1

                        for at in 1..buckets do
                            ends[at] <- ends[at] + ends[at - 1]

                        // Each bucket's start moves to its end.
                        for i in first .. first + count - 1 do
                            let at = bucket ids[i]
                            parted[ends[at]] <- ids[i]
                            ends[at] <- ends[at] + 1

                        let mutable at = 0
                        let mutable goesOn = true

                        while goesOn && at < buckets do
                            let start = if at = 0 then 0 else ends[at - 1]

                            if ends[at] > start then
                                goesOn <- descend values parted start (ends[at] - start) visit

                            at <- at + 1

                        goesOn))

    /// Visits the places of values above `floor`, the largest value first and of equal ones the first, while `visit`
    /// says true.
    let descending (floor: float) (values: float[]) (visit: int -> bool) : unit =
        withInts values.Length (fun ids ->
            let mutable count = 0

            for id in 0 .. values.Length - 1 do
                if values[id] > floor then
                    ids[count] <- id
                    count <- count + 1

            descend values ids 0 count visit |> ignore)

    /// The k-th largest value, equal ones counted each.
    let largest (k: int) (values: float[]) : float =
        if k <= mostHeld then
            // The k largest so far, the least of them first.
            let held = PriorityQueue<float, float> k
            let mutable least = Double.NegativeInfinity

            for value in values do
                if held.Count < k then
                    held.Enqueue(value, value)
                    least <- held.Peek()
                elif value > least then
                    held.EnqueueDequeue(value, value) |> ignore
                    least <- held.Peek()

            least
        else
            let seen, found = ref 0, ref Double.NegativeInfinity

            descending Double.NegativeInfinity values (fun id ->
                seen.Value <- seen.Value + 1
                found.Value <- values[id]
                seen.Value < k)

            found.Value

    /// The places of the k largest of the first `count` values, the largest first and of equal ones the first.
    let first (k: int) (count: int) (values: float[]) : int[] =
        if k = 0 then
            [||]
        else
            // The k best so far, the worst of them in front: the least value, and of equal ones the last place.
            let held = PriorityQueue<int, struct (float * int)> k
            let mutable least = Double.NegativeInfinity

            for place in 0 .. count - 1 do
                let value = values[place]

                if held.Count < k then
                    held.Enqueue(place, struct (value, -place))
                    least <- values[held.Peek()]
                elif value > least then
                    held.EnqueueDequeue(place, struct (value, -place)) |> ignore
                    least <- values[held.Peek()]

            let best = Array.init held.Count (fun _ -> held.Dequeue())
            Array.Reverse best
            best
