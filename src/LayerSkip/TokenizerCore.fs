namespace LayerSkip

open System
open System.Collections.Generic
open System.Globalization
open System.Text

/// How a vocabulary writes the bytes that its pieces stand for.
[<RequireQualifiedAccess>]
type internal Spelling =
    /// A character a byte, as GPT-2 has it.
    | ByteLevel
    /// Text with U+2581 for a space, and `<0xNN>` for a byte where the flag is set.
    | SentencePiece of bytePieces: bool

/// Text to ids and back, as one model's files define it. Immutable; any number of threads may share it.
[<NoEquality; NoComparison>]
type Tokenizer = internal {
    Kind: string
    /// The piece of each id, "" where an id has none.
    Pieces: string[]
    Spelling: Spelling
    /// Decoding drops the space that encoding put at the start.
    DropsFirstSpace: bool
    Added: Map<int, AddedToken>
    Normalize: Place -> string -> string
    Words: Piece -> Piece[]
    Bpe: Bpe
    /// What encoding puts before a text when it adds the beginning: the template's special tokens.
    Prefix: int list
    AddsBos: bool
    BosId: int option
    EosId: int option
    Template: string option
    // Cutting out added tokens, before and after normalization: all of them, and those that are not special.
    CutAll: struct ((string -> Segment list) * (string -> Segment list))
    CutPlain: struct ((string -> Segment list) * (string -> Segment list))
}

/// What a file says of a tokenizer, apart from its pieces.
[<NoEquality; NoComparison>]
type internal TokenizerParts = {
    Kind: string
    Spelling: Spelling
    DropsFirstSpace: bool
    Normalize: Place -> string -> string
    Words: Piece -> Piece[]
    Bpe: Bpe
    /// Empty: BOS, where there is one.
    Prefix: int list
    AddsBos: bool
    Bos: int option
    Eos: int option
    Template: string option
}

[<RequireQualifiedAccess>]
module internal TokenizerCore =
    /// The functions that cut added tokens out, for `CutAll` (special ones too) or `CutPlain`.
    let private cutting (special: bool) (added: AddedToken list) =
        let wanted = added |> List.filter (fun token -> special || not token.Special)
        let later, typed = wanted |> List.partition (fun token -> token.Normalized)
        struct (AddedToken.splitter typed, AddedToken.splitter later)

    /// The ids that so many pieces may have: some vocabularies have holes, but an id that is a slip of the pen must not ask
    /// for gigabytes.
    let private mostIds (pieces: int) = 100_000 + 8 * pieces

    /// Puts a tokenizer together; ids that are negative or far beyond the number of pieces, or special ones that no piece
    /// has, are errors.
    let create path (parts: TokenizerParts) (added: AddedToken list) (pieces: seq<struct (int * string)>) =
        let pieces = Array.ofSeq pieces
        let most = mostIds pieces.Length
        let outside id = id < 0 || id >= most
        let count = 1 + Seq.fold (fun last (struct (id, _)) -> max last id) -1 pieces

        let faults = [
            if pieces |> Array.exists (fun (struct (id, _)) -> outside id) then
                LayerSkipError.BadFile(path, $"a token has an id outside 0 to {most - 1}")
            for id in parts.Prefix @ Option.toList parts.Bos @ Option.toList parts.Eos do
                if id < 0 || id >= count then
                    LayerSkipError.BadFile(path, $"special token {id} is not among the {count} tokens")
        ]

        if not faults.IsEmpty then
            Error faults
        else
            let byId = Array.create count ""

            for struct (id, piece) in pieces do
                byId[id] <- piece

            Ok {
                Kind = parts.Kind
                Pieces = byId
                Spelling = parts.Spelling
                DropsFirstSpace = parts.DropsFirstSpace
                Added = added |> Seq.map (fun token -> token.Id, token) |> Map.ofSeq
                Normalize = parts.Normalize
                Words = parts.Words
                Bpe =
                    parts.Bpe
                    |> Bpe.without (
                        set [
                            for token in added do
                                if token.Special then
                                    token.Id
                        ]
                    )
                Prefix =
                    if parts.Prefix.IsEmpty then
                        Option.toList parts.Bos
                    else
                        parts.Prefix
                AddsBos = parts.AddsBos
                BosId = parts.Bos
                EosId = parts.Eos
                Template = parts.Template
                CutAll = cutting true added
                CutPlain = cutting false added
            }

    /// Ids of a text whose beginning stands at `start`.
    let encode (start: Place) (parseSpecial: bool) (tokenizer: Tokenizer) (text: string) : List<int> =
        let ids = List<int>()
        let encodeWord = Bpe.encoder tokenizer.Bpe

        let struct (cutTyped, cutNormalized) =
            if parseSpecial then
                tokenizer.CutAll
            else
                tokenizer.CutPlain

        let encodeText place text =
            for word in tokenizer.Words { Text = text; Place = place } do
                encodeWord word.Text ids

        let mutable place = start

        for typed in cutTyped text do
            match typed with
            | Segment.Token id -> ids.Add id
            | Segment.Text "" -> ()
            | Segment.Text text ->
                for segment in cutNormalized (tokenizer.Normalize place text) do
                    match segment with
                    | Segment.Token id -> ids.Add id
                    | Segment.Text "" -> ()
                    | Segment.Text text -> encodeText place text

                    place <- Place.Later

            place <- Place.Later

        ids

    let private byteOfPiece (piece: string) =
        if piece.Length = 6 && piece.StartsWith("<0x", StringComparison.Ordinal) && piece[5] = '>' then
            match Byte.TryParse(piece.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture) with
            | true, value -> ValueSome value
            | _ -> ValueNone
        else
            ValueNone

    /// The bytes that an id adds to a text; none for an id outside the vocabulary, as padded models may produce.
    let bytes (showSpecial: bool) (tokenizer: Tokenizer) (id: int) : byte[] =
        if id < 0 || id >= tokenizer.Pieces.Length then
            [||]
        else
            let piece = tokenizer.Pieces[id]

            match tokenizer.Added.TryFind id, tokenizer.Spelling with
            | Some added, _ when added.Special && not showSpecial -> [||]
            | Some _, Spelling.ByteLevel -> Encoding.UTF8.GetBytes piece
            | None, Spelling.ByteLevel ->
                // A piece outside the byte alphabet stands for its own text.
                if piece |> Seq.forall (fun c -> ByteAlphabet.byteOf c >= 0) then
                    Array.init piece.Length (fun i -> byte (ByteAlphabet.byteOf piece[i]))
                else
                    Encoding.UTF8.GetBytes piece
            | _, Spelling.SentencePiece bytePieces ->
                match (if bytePieces then byteOfPiece piece else ValueNone) with
                | ValueSome value -> [| value |]
                | ValueNone -> Encoding.UTF8.GetBytes(piece.Replace('\u2581', ' '))

    /// The 256 ids of `<0x00>` to `<0xFF>`, if the vocabulary has any of them.
    let byteFallback (ids: Dictionary<string, int>) : int[] option =
        let found =
            Array.init 256 (fun b ->
                match ids.TryGetValue $"<0x%02X{b}>" with
                | true, id -> id
                | _ -> -1)

        if Array.exists (fun id -> id >= 0) found then
            Some found
        else
            None

    /// The alphabet of a byte-level vocabulary.
    let byteLevel (ids: Dictionary<string, int>) : Alphabet =
        ByteAlphabet.characters
        |> Array.map (fun c ->
            match ids.TryGetValue(string c) with
            | true, id -> id
            | _ -> -1)
        |> Alphabet.Bytes

    /// The one-character pieces of a vocabulary by code point.
    let codePoints (ids: Dictionary<string, int>) : Dictionary<int, int> =
        let points = Dictionary<int, int>()

        for entry in ids do
            match Rune.TryGetRuneAt(entry.Key, 0) with
            | true, rune when rune.Utf16SequenceLength = entry.Key.Length -> points[rune.Value] <- entry.Value
            | _ -> ()

        points
