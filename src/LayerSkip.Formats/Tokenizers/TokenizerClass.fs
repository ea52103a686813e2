namespace LayerSkip

open System
open System.Buffers
open System.Collections.Generic
open System.Globalization
open System.Text
open Microsoft.ML.Tokenizers

/// How a vocabulary writes the bytes that its pieces stand for.
[<RequireQualifiedAccess>]
type internal Spelling =
    /// A character a byte, as GPT-2 has it.
    | ByteLevel
    /// Text with U+2581 for a space, and `<0xNN>` for a byte where the flag is set.
    | SentencePiece of bytePieces: bool

/// Pieces that stand for single bytes.
[<RequireQualifiedAccess>]
module internal Spelling =
    /// The byte that a piece such as `<0x0A>` stands for.
    let tryByte (piece: string) : byte voption =
        if piece.Length = 6 && piece.StartsWith("<0x", StringComparison.Ordinal) && piece[5] = '>' then
            match Byte.TryParse(piece.AsSpan(3, 2), NumberStyles.HexNumber, CultureInfo.InvariantCulture) with
            | true, value -> ValueSome value
            | _ -> ValueNone
        else
            ValueNone

/// What a file says of a tokenizer, apart from its pieces.
[<NoEquality; NoComparison>]
type internal TokenizerParts = {
    Kind: string
    Spelling: Spelling
    /// Decoding drops the space that encoding put at the start.
    DropsFirstSpace: bool
    Normalize: Place -> string -> string
    Words: Piece -> Piece[]
    Bpe: Bpe
    /// What encoding puts before a text when it adds the beginning: the template's special tokens. Empty in a file: BOS.
    Prefix: int list
    AddsBos: bool
    Bos: int option
    Eos: int option
    /// Chat templates by name; the one that files give no name is "default".
    Templates: (string * string) list
}

/// Text to ids and back, as one model's files define it. Immutable; any number of threads may share it. As a tokenizer of
/// Microsoft.ML.Tokenizers it encodes as a model is prompted: BOS where the model wants one, special tokens read as such.
/// Normalization there is all that changes the text before merging, also a pre-tokenizer's spaces; offsets count its
/// characters [UTF-16] and leave no gap. An id that ends within a character ends, for offsets, before it.
[<Sealed>]
type Tokenizer internal (parts: TokenizerParts, pieces: string[], added: AddedToken list) =
    inherit Microsoft.ML.Tokenizers.Tokenizer()

    let addedById = added |> Seq.map (fun token -> token.Id, token) |> Map.ofSeq

    // Cutting out added tokens, before and after normalization: all of them, or those that are not special.
    let cutting (special: bool) =
        let wanted = added |> List.filter (fun token -> special || not token.Special)
        let later, typed = wanted |> List.partition (fun token -> token.Normalized)
        struct (AddedToken.splitter typed, AddedToken.splitter later)

    let cutAll, cutPlain = cutting true, cutting false

    // All of them, each where it may stand.
    let cutterTyped, cutterNormalized =
        let later, typed = added |> List.partition _.Normalized
        AddedToken.cutter typed, AddedToken.cutter later

    let hasGuardedLater = added |> List.exists (fun token -> token.Normalized && AddedToken.isGuarded token)

    let mayStand (text: Marked) (token: AddedToken) start stop =
        not (AddedToken.isGuarded token) || Marked.isTrusted start stop text

    // `cutNormalized` is given where in the text its part begins, how long that is, and where it stands.
    let encodeBy
        normalize
        words
        (start: Place)
        addBos
        (cutTyped: string -> Segment list)
        (cutNormalized: int -> int -> Place -> string -> Segment list)
        (text: string)
        : Encoded =
        let encoded = Encoded()
        let encodeWord = Bpe.encoder parts.Bpe

        if addBos then
            for id in parts.Prefix do
                encoded.Add(id, 0)

        let token id (taken: string) =
            encoded.Begin taken
            encoded.Add(id, taken.Length)

        let mutable place = start
        let mutable at = 0

        for typed in cutTyped text do
            match typed with
            | Segment.Token(id, taken) ->
                token id taken
                at <- at + taken.Length
            | Segment.Text "" -> ()
            | Segment.Text text ->
                for segment in cutNormalized at text.Length place (normalize place text) do
                    match segment with
                    | Segment.Token(id, taken) -> token id taken
                    | Segment.Text "" -> ()
                    | Segment.Text text ->
                        for word in words { Text = text; Place = place } do
                            encodeWord word.Text encoded

                    place <- Place.Later

                at <- at + text.Length

            place <- Place.Later

        encoded

    let encode normalize words start addBos parseSpecial text =
        let struct (cutTyped, cutNormalized) = if parseSpecial then cutAll else cutPlain
        encodeBy normalize words start addBos cutTyped (fun _ _ _ -> cutNormalized) text

    let given (text: string) (settings: EncodeSettings) : Encoded =
        let normalize =
            if settings.ConsiderNormalization then
                parts.Normalize
            else
                fun _ -> id
        let words =
            if settings.ConsiderPreTokenization then
                parts.Words
            else
                Array.singleton
        encode normalize words Place.First parts.AddsBos true text

    // Of a normalized text; null where it is the text itself.
    let changed (text: string) (encoded: Encoded) =
        let normalized = encoded.Text.ToString()
        if normalized = text then null else normalized

    /// Where the first `count` ids end.
    let stop (encoded: Encoded) (count: int) =
        if count = encoded.Ids.Count then encoded.Text.Length
        elif count = 0 then 0
        else max encoded.Ends[count - 1] ~~~encoded.Ends[count - 1]

    /// Whether the first `count` ids end between characters.
    let isBetween (encoded: Encoded) (count: int) =
        count <= 0 || count >= encoded.Ids.Count || encoded.Ends[count - 1] >= 0

    /// What the files said, and what was made of it.
    member internal _.Parts = parts
    /// The same vocabulary with other parts.
    member internal _.With(parts: TokenizerParts) = Tokenizer(parts, pieces, added)
    /// The piece of each id, "" where an id has none.
    member internal _.Pieces = pieces
    /// Tokens that are cut out of a text, by id.
    member internal _.Added = addedById

    /// Ids of a text whose beginning stands at `start`.
    member internal _.Encode(start: Place, addBos: bool, parseSpecial: bool, text: string) : Encoded =
        encode parts.Normalize parts.Words start addBos parseSpecial text

    /// Ids of a text with marks, encoded as one; guarded tokens are read where all of their text is trusted.
    member internal _.EncodeMarked(start: Place, addBos: bool, text: Marked) : Encoded =
        let cutNormalized at length place (normalized: string) =
            let marks =
                if hasGuardedLater then
                    Marked.sub at length text |> Marked.changed (parts.Normalize place) normalized
                else
                    Marked.typed normalized

            cutterNormalized (mayStand marks) normalized

        encodeBy
            parts.Normalize
            parts.Words
            start
            addBos
            (cutterTyped (mayStand text))
            cutNormalized
            text.Text

    /// The bytes that an id adds to a text; none for an id outside the vocabulary, as padded models may produce.
    member internal _.Bytes (showSpecial: bool) (id: int) : byte[] =
        if id < 0 || id >= pieces.Length then
            [||]
        else
            let piece = pieces[id]

            match addedById.TryFind id, parts.Spelling with
            | Some added, _ when added.Special && not showSpecial -> [||]
            | Some _, Spelling.ByteLevel -> Encoding.UTF8.GetBytes piece
            | None, Spelling.ByteLevel ->
                // A piece outside the byte alphabet stands for its own text.
                if piece |> Seq.forall (fun c -> ByteAlphabet.byteOf c >= 0) then
                    Array.init piece.Length (fun i -> byte (ByteAlphabet.byteOf piece[i]))
                else
                    Encoding.UTF8.GetBytes piece
            | _, Spelling.SentencePiece bytePieces ->
                match (if bytePieces then Spelling.tryByte piece else ValueNone) with
                | ValueSome value -> [| value |]
                | ValueNone -> Encoding.UTF8.GetBytes(piece.Replace('\u2581', ' '))

    /// A text that begins, or goes on from another: then a first space stays.
    member internal this.Stream(showSpecial: bool, continues: bool) : TextStream = {
        Bytes = this.Bytes showSpecial
        DropsSpace = parts.DropsFirstSpace && not continues
        Pending = [||]
    }

    /// The text of ids at once: what `Stream` writes id by id.
    member internal this.Text(showSpecial: bool, continues: bool, ids: seq<int>) : string =
        let bytes = ids |> Seq.map (this.Bytes showSpecial) |> Array.concat
        let text = Encoding.UTF8.GetString bytes

        if parts.DropsFirstSpace && not continues && text.StartsWith ' ' then
            text[1..]
        else
            text

    /// Tokens with their offsets; those that have no room end between characters.
    override _.EncodeToTokens(text: string, textSpan: ReadOnlySpan<char>, settings: EncodeSettings) =
        let text = if isNull text then String textSpan else text
        let encoded = given text settings
        let mutable count = min settings.MaxTokenCount encoded.Ids.Count

        while not (isBetween encoded count) do
            count <- count - 1

        EncodeResults<EncodedToken>(
            Tokens =
                Array.init count (fun i ->
                    let offset = Range(stop encoded i, stop encoded (i + 1))
                    EncodedToken(encoded.Ids[i], pieces[encoded.Ids[i]], offset)),
            NormalizedText = changed text encoded,
            CharsConsumed = stop encoded count
        )

    override _.GetIndexByTokenCount
        (
            text: string,
            textSpan: ReadOnlySpan<char>,
            settings: EncodeSettings,
            fromEnd: bool,
            normalizedText: byref<string>,
            tokenCount: byref<int>
        ) : int =
        let text = if isNull text then String textSpan else text
        let encoded = given text settings
        let all = encoded.Ids.Count
        let most = min settings.MaxTokenCount all
        let mutable cut = if fromEnd then all - most else most

        while not (isBetween encoded cut) do
            cut <- if fromEnd then cut + 1 else cut - 1

        normalizedText <- changed text encoded
        tokenCount <- if fromEnd then all - cut else cut
        stop encoded cut

    /// The text of ids, without special tokens.
    override this.Decode(ids: seq<int>) : string = this.Text(false, false, ids)

    override this.Decode
        (ids: seq<int>, destination: Span<char>, idsConsumed: byref<int>, charsWritten: byref<int>)
        : OperationStatus =
        use ids = ids.GetEnumerator()
        let mutable stream = this.Stream(false, false)
        let mutable read, written, fits = 0, 0, true
        idsConsumed <- 0
        charsWritten <- 0

        while fits && ids.MoveNext() do
            let struct (text, next) = stream.Push ids.Current
            fits <- text.AsSpan().TryCopyTo(destination.Slice written)

            if fits then
                stream <- next
                read <- read + 1
                written <- written + text.Length

                // Between two characters one may go on with the ids that follow.
                if next.Pending.Length = 0 then
                    idsConsumed <- read
                    charsWritten <- written

        let rest = stream.Finish()

        if fits && rest.AsSpan().TryCopyTo(destination.Slice written) then
            idsConsumed <- read
            charsWritten <- written + rest.Length
            OperationStatus.Done
        else
            OperationStatus.DestinationTooSmall
