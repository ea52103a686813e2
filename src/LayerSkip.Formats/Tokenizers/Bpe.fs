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

    /// Bytes as characters, one each.
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

/// Ids, and where they end in the text that words were made of: the tokenizer's normalized text.
[<Sealed>]
type internal Encoded() =
    let mutable start = 0
    member val Text = StringBuilder()
    member val Ids = List<int>()
    /// The characters [UTF-16] up to the end of each id; where it ends within a character, the complement of those before it.
    member val Ends = List<int>()

    /// Appends a word, whose ids are to be added.
    member this.Begin(word: string) : unit =
        start <- this.Text.Length
        this.Text.Append word |> ignore

    /// Adds an id that ends at a place in the word.
    member this.Add(id: int, stop: int) : unit =
        this.Ids.Add id
        this.Ends.Add(if stop < 0 then stop - start else stop + start)

    /// Lengthens the last id.
    member this.Extend(stop: int) : unit = this.Ends[this.Ends.Count - 1] <- stop + start

/// A trained byte-pair encoding. Keys of `Merges` are `Pair.key`; values the merge's rank and the id it makes.
/// Ours, as Microsoft.ML.Tokenizers' BpeTokenizer fails llama.cpp's vector "Cửa Việt" of llama-bpe, CodeGenTokenizer "  " of
/// gpt-2, TiktokenTokenizer our test of `ignore_merges`, and LlamaTokenizer "!!!!!!" of llama-spm.
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

/// Two adjacent symbols as one number.
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

    /// Merges the symbols in place, and their ends.
    member _.Merge(symbols: List<int>, ends: List<int>) : unit =
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
                ends[left] <- ends[right]
                next[left] <- next[right]

                if next[right] < count then
                    previous[next[right]] <- left

                enqueue symbols previous[left] left
                enqueue symbols left next[left]

        let mutable kept = 0

        for i in 0 .. count - 1 do
            if symbols[i] <> taken then
                symbols[kept] <- symbols[i]
                ends[kept] <- ends[i]
                kept <- kept + 1

        symbols.RemoveRange(kept, count - kept)
        ends.RemoveRange(kept, count - kept)

/// Byte-pair encoding (Sennrich, Haddow and Birch 2016, arXiv 1508.07909): of all adjacent pairs in a word that have
/// a merge the one of the lowest rank becomes one symbol, again and again. Time n log n in the length of the word.
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

    let private spell (bpe: Bpe) (word: string) (symbols: List<int>) (ends: List<int>) =
        let utf8 = Array.zeroCreate<byte> 4
        let mutable start = 0

        for rune in word.EnumerateRunes() do
            let stop = start + rune.Utf16SequenceLength

            match bpe.Alphabet with
            | Alphabet.Bytes ids ->
                let last = rune.EncodeToUtf8(Span utf8) - 1

                for i in 0..last do
                    let id = ids[int utf8[i]]
                    symbols.Add(if id >= 0 then id else -1 - int utf8[i])
                    ends.Add(if i < last then ~~~start else stop)
            | Alphabet.CodePoints ids ->
                match ids.TryGetValue rune.Value with
                | true, id -> symbols.Add id
                | _ -> symbols.Add(-1 - rune.Value)

                ends.Add stop

            start <- stop

    let private bytesOf (bpe: Bpe) (symbol: int) : byte[] =
        match bpe.Alphabet with
        | Alphabet.Bytes _ -> [| byte (-1 - symbol) |]
        | Alphabet.CodePoints _ -> Encoding.UTF8.GetBytes((Rune(-1 - symbol)).ToString())

    let private emit (bpe: Bpe) (symbols: List<int>) (ends: List<int>) (encoded: Encoded) =
        let mutable afterUnknown = false

        for i in 0 .. symbols.Count - 1 do
            let symbol, stop = symbols[i], ends[i]

            if symbol >= 0 then
                encoded.Add(symbol, stop)
                afterUnknown <- false
            else
                let spelled =
                    match bpe.ByteFallback with
                    | Some fallback -> bytesOf bpe symbol |> Array.map (fun b -> fallback[int b])
                    | None -> [| -1 |]

                if Array.forall (fun id -> id >= 0) spelled then
                    let before = if i = 0 then 0 else ends[i - 1]
                    let last = spelled.Length - 1
                    spelled
                    |> Array.iteri (fun i id -> encoded.Add(id, (if i < last then ~~~before else stop)))
                    afterUnknown <- false
                else
                    match bpe.Unknown with
                    | Some _ when afterUnknown && bpe.FuseUnknown -> encoded.Extend stop
                    | Some id -> encoded.Add(id, stop)
                    | None -> ()

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

    /// A function that appends a word and its ids; for one thread. What no piece and no byte spells is the unknown
    /// id, or nothing where there is none.
    let encoder (bpe: Bpe) : string -> Encoded -> unit =
        let merger = Merger bpe.Merges
        let symbols, ends = List<int>(), List<int>()

        fun word encoded ->
            encoded.Begin word

            match tryWord bpe word with
            | ValueSome id -> encoded.Add(id, word.Length)
            | ValueNone ->
                symbols.Clear()
                ends.Clear()
                spell bpe word symbols ends
                merger.Merge(symbols, ends)
                emit bpe symbols ends encoded
