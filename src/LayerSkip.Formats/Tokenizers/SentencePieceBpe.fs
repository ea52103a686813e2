namespace LayerSkip

open System
open System.Collections.Generic
open System.Text

/// The kinds of a SentencePiece model's pieces; GGUF numbers them alike.
[<RequireQualifiedAccess>]
module internal PieceType =
    /// As sentencepiece_model.proto and GGUF's `tokenizer.ggml.token_type` have them.
    let normal, unknown, control, userDefined, unused, ``byte`` = 1, 2, 3, 4, 5, 6

    /// The pieces that are cut out of a text; `normalized`: where users' own are looked for.
    let added (normalized: bool) (pieces: string[]) (types: int[]) : AddedToken list = [
        for id in 0 .. pieces.Length - 1 do
            if types[id] = control || types[id] = unknown then
                AddedToken.plain id pieces[id] true
            elif types[id] = userDefined then
                { AddedToken.plain id pieces[id] false with Normalized = normalized }
    ]

/// SentencePiece's BPE (Kudo and Richardson 2018, arXiv 1808.06226), which ranks pairs by the score of the piece they
/// make: its trainer's are 0, -1, -2 in the order of the merges.
[<RequireQualifiedAccess>]
module internal SentencePieceBpe =
    /// Builds the merges: every way of cutting a piece into two that are pieces or single characters.
    let build (pieces: string[]) (scores: float[]) (types: int[]) (byteFallback: bool) : Bpe =
        let ids = Dictionary<string, int> pieces.Length
        let all = Dictionary<string, int> pieces.Length
        // Control, unknown and byte pieces are never made from characters.
        let isText id =
            types[id] = PieceType.normal
            || types[id] = PieceType.userDefined
            || types[id] = PieceType.unused

        for id in 0 .. pieces.Length - 1 do
            all.TryAdd(pieces[id], id) |> ignore

            if pieces[id] <> "" && isText id then
                ids.TryAdd(pieces[id], id) |> ignore

        let ranks = Dictionary<float, int>()
        // Equal scores are equal ranks: the leftmost goes first.
        scores
        |> Array.distinct
        |> Array.sortDescending
        |> Array.iteri (fun rank score -> ranks[score] <- rank)

        let bySpan = ids.GetAlternateLookup<ReadOnlySpan<char>>()

        let symbol (piece: string) start length =
            let text = piece.AsSpan(start, length)

            let mutable id = 0

            if bySpan.TryGetValue(text, &id) then
                ValueSome id
            else
                match Rune.TryGetRuneAt(piece, start) with
                | true, rune when rune.Utf16SequenceLength = length -> ValueSome(-1 - rune.Value)
                | _ -> ValueNone

        // Of a long piece only cuts at lengths that some piece has are tried: trying all takes the square of its length.
        let lengths =
            ids.Keys
            |> Seq.map _.Length
            |> Seq.append [ 1; 2 ]
            |> Seq.distinct
            |> Seq.sort
            |> Array.ofSeq

        let isLength = HashSet lengths
        let merges = Dictionary<int64, struct (int * int)>(3 * pieces.Length)

        for entry in ids do
            let piece, id = entry.Key, entry.Value

            for cut in lengths |> Seq.takeWhile (fun length -> length < piece.Length) do
                if isLength.Contains(piece.Length - cut) then
                    match symbol piece 0 cut, symbol piece cut (piece.Length - cut) with
                    | ValueSome left, ValueSome right ->
                        merges[Pair.key left right] <- struct (ranks[scores[id]], id)
                    | _ -> ()

        {
            Alphabet = Alphabet.CodePoints(TokenizerCore.codePoints ids)
            Merges = merges
            Words = None
            ByteFallback = TokenizerCore.byteFallback all |> Option.filter (fun _ -> byteFallback)
            Unknown = Array.tryFindIndex (fun kind -> kind = PieceType.unknown) types
            FuseUnknown = true
        }

    /// Spaces as U+2581, and one more in front where the model adds a dummy prefix.
    let normalize (prefix: bool) (place: Place) (text: string) : string =
        if prefix && text <> "" && place <> Place.Continuing then
            "\u2581" + text.Replace(' ', '\u2581')
        else
            text.Replace(' ', '\u2581')

    /// A tokenizer of one word, the whole text, which has no special tokens yet; `prefix`: it puts a space in front.
    let parts (prefix: bool) (bpe: Bpe) : TokenizerParts = {
        Kind = "SentencePiece BPE"
        Spelling = Spelling.SentencePiece true
        DropsFirstSpace = prefix
        Normalize = normalize prefix
        Words = Array.singleton
        Bpe = bpe
        Prefix = []
        AddsBos = true
        Bos = None
        Eos = None
        Templates = []
    }
