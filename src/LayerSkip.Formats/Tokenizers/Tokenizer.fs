namespace LayerSkip

open System.IO

/// Loads tokenizers, turns text into ids and ids into text.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Tokenizer =
    /// Reads a tokenizer.json, and the tokenizer_config.json beside it for BOS and chat template. Every stage is
    /// read, or the error names the one that is not supported; we encode as the tokenizers library does, or not at
    /// all.
    let ofJson (path: string) : Result<Tokenizer, LayerSkipError list> = TokenizerJson.load path

    /// Reads a tokenizer.model, SentencePiece's protobuf, of the kind BPE.
    let ofSentencePiece (path: string) : Result<Tokenizer, LayerSkipError list> = SentencePieceModel.load path

    /// The tokenizer in a GGUF file's metadata, None where it holds none; `path` is for messages.
    let ofGguf
        (path: string)
        (metadata: Map<string, GgufValue>)
        : Result<Tokenizer option, LayerSkipError list> =
        TokenizerGguf.load path metadata

    /// A folder's tokenizer.json, else its tokenizer.model, else its vocab.json with merges.txt, else None. A file
    /// that is there and cannot be read is an error: the next is not tried.
    let tryLoad (folder: string) : Result<Tokenizer option, LayerSkipError list> =
        let file name = Path.Combine(folder, name)
        let has name = File.Exists(file name)

        if has "tokenizer.json" then
            ofJson (file "tokenizer.json") |> Result.map Some
        elif has "tokenizer.model" then
            ofSentencePiece (file "tokenizer.model") |> Result.map Some
        elif has "vocab.json" && has "merges.txt" then
            TokenizerVocab.load folder |> Result.map Some
        else
            Ok None

    /// Ids of a text; `addBos` puts the beginning in front where there is one, `parseSpecial` reads "<s>" in the text as
    /// the special token, not as three characters: without it no text, whoever wrote it, gives a special token.
    let encodeWith (addBos: bool) (parseSpecial: bool) (tokenizer: Tokenizer) (text: string) : int[] =
        tokenizer.Encode(Place.First, addBos, parseSpecial, text).Ids.ToArray()

    /// Ids of a text as the model is prompted: with BOS where the tokenizer adds one, special tokens parsed.
    let encode (tokenizer: Tokenizer) (text: string) : int[] =
        encodeWith tokenizer.Parts.AddsBos true tokenizer text

    /// Whether ids begin with the beginning of a text twice: the tokenizer put it before a text that had it already.
    let beginsTwice (tokenizer: Tokenizer) (ids: int[]) : bool =
        let front = Array.ofList tokenizer.Parts.Prefix

        tokenizer.Parts.AddsBos
        && ids.Length > front.Length
        && Array.truncate front.Length ids = front
        && tokenizer.Parts.Bos = Some ids[front.Length]

    /// Ids of a text in pieces, encoded as one, without BOS: special tokens are read where all of their text is trusted, and
    /// nowhere else, nor is what only looks like one (`<|...|>`). Other added tokens are read wherever they stand. Where no typed
    /// piece holds such a token's text, these are the ids of the whole text with special tokens parsed.
    let encodeMarked (tokenizer: Tokenizer) (text: MarkedText) : int[] =
        tokenizer.EncodeMarked(Place.First, false, Marked.ofText text).Ids.ToArray()

    /// Ids of a text in pieces that goes on from ids, which stay as they are: after a token of its own, as special ones are, a text
    /// begins anew.
    let internal encodeMarkedAfter (ids: int[]) (tokenizer: Tokenizer) (text: Marked) : int[] =
        let place =
            match Array.tryLast ids with
            | None -> Place.First
            | Some last when tokenizer.Added.ContainsKey last -> Place.Later
            | Some _ -> Place.Continuing

        tokenizer.EncodeMarked(place, false, text).Ids.ToArray()

    /// Ids of a text that goes on from another: without BOS, and without the space that some tokenizers put before a text.
    let encodeContinuing (parseSpecial: bool) (tokenizer: Tokenizer) (text: string) : int[] =
        tokenizer.Encode(Place.Continuing, false, parseSpecial, text).Ids.ToArray()

    /// The text of ids that go on from others: a first space stays.
    let decodeContinuing (showSpecial: bool) (tokenizer: Tokenizer) (ids: seq<int>) : string =
        tokenizer.Text(showSpecial, true, ids)

    /// The text of ids, without the space that some tokenizers put at the start; bytes that are not UTF-8 become U+FFFD.
    let decode (showSpecial: bool) (tokenizer: Tokenizer) (ids: seq<int>) : string =
        tokenizer.Text(showSpecial, false, ids)

    /// Whether `encode` puts the beginning before a text.
    let addsBos (tokenizer: Tokenizer) : bool = tokenizer.Parts.AddsBos

    /// The id that begins a text, where the tokenizer names one.
    let bos (tokenizer: Tokenizer) : int option = tokenizer.Parts.Bos

    /// The id that ends a text, where the tokenizer names one.
    let eos (tokenizer: Tokenizer) : int option = tokenizer.Parts.Eos

    /// One more than the largest id.
    let vocabularySize (tokenizer: Tokenizer) : int = tokenizer.Pieces.Length

    /// The Jinja template of a conversation, where the files have one.
    let chatTemplate (tokenizer: Tokenizer) : string option =
        tokenizer.Parts.Templates |> List.tryFind (fst >> (=) "default") |> Option.map snd

    /// All Jinja templates that the files have, by name: "default", and what else a model has, as "tool_use".
    let chatTemplates (tokenizer: Tokenizer) : (string * string) list = tokenizer.Parts.Templates

    /// "byte-level BPE" or "SentencePiece BPE".
    let kind (tokenizer: Tokenizer) : string = tokenizer.Parts.Kind

    /// Whether an id is a control token, which `decode false` leaves out.
    let isSpecial (tokenizer: Tokenizer) (id: int) : bool =
        tokenizer.Added.TryFind id |> Option.exists _.Special

    /// Whether an id is one that no typed text may become (`encodeMarked`): a control token, or one that looks like it.
    let isControl (tokenizer: Tokenizer) (id: int) : bool =
        tokenizer.Added.TryFind id |> Option.exists AddedToken.isGuarded

    /// The piece of an id as the vocabulary spells it; "" outside the vocabulary.
    let tokenText (tokenizer: Tokenizer) (id: int) : string =
        tokenizer.Pieces |> Array.tryItem id |> Option.defaultValue ""

/// Decoding id by id. All that `push` returned, with what `finish` returns, is what decoding all the ids at once gives.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module TextStream =
    /// A stream that writes what `Tokenizer.decode` does.
    let create (showSpecial: bool) (tokenizer: Tokenizer) : TextStream = tokenizer.Stream(showSpecial, false)

    /// A stream that writes what `Tokenizer.decodeContinuing` does: for the text that follows a prompt.
    let continuing (showSpecial: bool) (tokenizer: Tokenizer) : TextStream =
        tokenizer.Stream(showSpecial, true)

    /// The text that has become certain with an id, never half a character, and the stream after it.
    let push (id: int) (stream: TextStream) : struct (string * TextStream) = stream.Push id

    /// What was held back: U+FFFD for the beginning of a character that never came.
    let finish (stream: TextStream) : string = stream.Finish()
