namespace LayerSkip

open System
open System.Collections.Generic
open System.Text

/// GPT-2's spelling of bytes as printable characters.
[<RequireQualifiedAccess>]
module internal ByteAlphabet =
    /// The character of each byte: itself where it is printable, else the next from U+0100.
    let characters: char[] =
        let printable b = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174
        let shifted = [| 0..255 |] |> Array.filter (printable >> not)
        Array.init 256 (fun b ->
            if printable b then
                char b
            else
                char (256 + Array.IndexOf(shifted, b)))

    let private bytes =
        let bytes = Array.create 324 -1
        characters |> Array.iteri (fun b c -> bytes[int c] <- b)
        bytes

    /// The byte that a character spells, or -1.
    let byteOf (c: char) : int = if int c < bytes.Length then bytes[int c] else -1

    let spell (utf8: byte[]) : string =
        String.Create(
            utf8.Length,
            utf8,
            fun span utf8 ->
                for i in 0 .. utf8.Length - 1 do
                    span[i] <- characters[int utf8[i]]
        )

/// What pieces are built from. A symbol that has no id is held as -1 - (byte or code point).
[<RequireQualifiedAccess>]
type internal Alphabet =
    | Bytes of ids: int[]
    | CodePoints of ids: Dictionary<int, int>

/// A trained byte-pair encoding. Keys of `Merges` are `Pair.key`; values the merge's rank and the id it makes.
[<NoEquality; NoComparison>]
type internal Bpe = {
    Alphabet: Alphabet
    Merges: Dictionary<int64, struct (int * int)>
    /// Whole words that are pieces, where merges give way to them (`ignore_merges`).
    Words: Dictionary<string, int> option
    /// The id of each byte, for characters that are no piece.
    ByteFallback: int[] option
    Unknown: int option
    /// Adjacent unknown characters give one unknown id.
    FuseUnknown: bool
}

[<RequireQualifiedAccess>]
module internal Pair =
    /// The key of two adjacent symbols. Int64 hashes to its low half xor its high half, which for small ids gives few values:
    /// the odd factor spreads them, and keeps keys apart.
    let key (left: int) (right: int) : int64 =
        ((int64 left <<< 32) ||| int64 (uint32 right)) * 0x9E3779B97F4A7C15L

    // Newton's iteration doubles the bits that are right, from the three of an odd number that is its own inverse.
    let private inverse =
        List.fold (fun x _ -> x * (2L - 0x9E3779B97F4A7C15L * x)) 0x9E3779B97F4A7C15L [ 1..5 ]

    /// The two symbols of a key.
    let halves (key: int64) : struct (int * int) =
        let pair = key * inverse
        struct (int (pair >>> 32), int pair)

/// Working memory for merging word after word; for one thread.
type internal Merger(merges: Dictionary<int64, struct (int * int)>) =
    let queue = PriorityQueue<struct (int * int * int), int64>()
    let mutable next = Array.zeroCreate<int> 64
    let mutable previous = Array.zeroCreate<int> 64

    // A pair is queued under its rank, then its place: the lowest rank first, among equals the leftmost.
    let enqueue (symbols: List<int>) left right =
        if left >= 0 && right < symbols.Count then
            match merges.TryGetValue(Pair.key symbols[left] symbols[right]) with
            | true, struct (rank, _) ->
                queue.Enqueue(
                    struct (left, symbols[left], symbols[right]),
                    (int64 rank <<< 32) ||| int64 left
                )
            | _ -> ()

    /// Merges the symbols in place.
    member _.Merge(symbols: List<int>) : unit =
        let count = symbols.Count

        if next.Length < count then
            next <- Array.zeroCreate (2 * count)
            previous <- Array.zeroCreate (2 * count)

        let taken = Int32.MinValue

        for i in 0 .. count - 1 do
            next[i] <- i + 1
            previous[i] <- i - 1
            enqueue symbols i (i + 1)

        while queue.Count > 0 do
            let struct (left, first, second) = queue.Dequeue()
            let right = next[left]
            // Earlier merges may have taken either half.
            if symbols[left] = first && right < count && symbols[right] = second then
                let struct (_, merged) = merges[Pair.key first second]
                symbols[left] <- merged
                symbols[right] <- taken
                next[left] <- next[right]

                if next[right] < count then
                    previous[next[right]] <- left

                enqueue symbols previous[left] left
                enqueue symbols left next[left]

        symbols.RemoveAll(fun symbol -> symbol = taken) |> ignore

[<RequireQualifiedAccess>]
module internal Bpe =
    /// The encoding in which no text makes these ids: neither merges, nor words, nor single characters do.
    let without (ids: Set<int>) (bpe: Bpe) : Bpe =
        let isKept id = not (ids.Contains id)

        let kept (entries: Dictionary<'K, 'V>) (idOf: 'V -> int) =
            if entries.Values |> Seq.forall (idOf >> isKept) then
                entries
            else
                Dictionary(entries |> Seq.filter (fun entry -> isKept (idOf entry.Value)))

        {
            bpe with
                Alphabet =
                    match bpe.Alphabet with
                    // Each of them spells a byte, whatever else a file says of it.
                    | Alphabet.Bytes ids -> Alphabet.Bytes ids
                    | Alphabet.CodePoints ids -> Alphabet.CodePoints(kept ids id)
                Merges = kept bpe.Merges (fun (struct (_, id)) -> id)
                Words = bpe.Words |> Option.map (fun words -> kept words id)
        }

    let private spell (bpe: Bpe) (word: string) (symbols: List<int>) =
        match bpe.Alphabet with
        | Alphabet.Bytes ids ->
            for b in Encoding.UTF8.GetBytes word do
                symbols.Add(if ids[int b] >= 0 then ids[int b] else -1 - int b)
        | Alphabet.CodePoints ids ->
            for rune in word.EnumerateRunes() do
                match ids.TryGetValue rune.Value with
                | true, id -> symbols.Add id
                | _ -> symbols.Add(-1 - rune.Value)

    let private bytesOf (bpe: Bpe) (symbol: int) : byte[] =
        match bpe.Alphabet with
        | Alphabet.Bytes _ -> [| byte (-1 - symbol) |]
        | Alphabet.CodePoints _ -> Encoding.UTF8.GetBytes((Rune(-1 - symbol)).ToString())

    let private emit (bpe: Bpe) (symbols: List<int>) (ids: List<int>) =
        let mutable afterUnknown = false

        for symbol in symbols do
            if symbol >= 0 then
                ids.Add symbol
                afterUnknown <- false
            else
                let spelled =
                    match bpe.ByteFallback with
                    | Some fallback -> bytesOf bpe symbol |> Array.map (fun b -> fallback[int b])
                    | None -> [| -1 |]

                if Array.forall (fun id -> id >= 0) spelled then
                    ids.AddRange spelled
                    afterUnknown <- false
                else
                    if not (afterUnknown && bpe.FuseUnknown) then
                        Option.iter ids.Add bpe.Unknown

                    afterUnknown <- true

    let private tryWord (bpe: Bpe) (word: string) : int voption =
        match bpe.Words with
        | None -> ValueNone
        | Some words ->
            let piece =
                match bpe.Alphabet with
                | Alphabet.Bytes _ -> ByteAlphabet.spell (Encoding.UTF8.GetBytes word)
                | Alphabet.CodePoints _ -> word

            match words.TryGetValue piece with
            | true, id -> ValueSome id
            | _ -> ValueNone

    /// A function that appends the ids of a word to a list; for one thread.
    let encoder (bpe: Bpe) : string -> List<int> -> unit =
        let merger = Merger bpe.Merges
        let symbols = List<int>()

        fun word ids ->
            match tryWord bpe word with
            | ValueSome id -> ids.Add id
            | ValueNone ->
                symbols.Clear()
                spell bpe word symbols
                merger.Merge symbols
                emit bpe symbols ids
