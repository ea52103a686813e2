namespace LayerSkip

open System
open System.Collections.Generic
open System.IO
open System.Text

/// What tokenizer to train.
type BpeOptions = {
    /// How many tokens: special ones, the 256 bytes, and the pieces that merges make.
    Vocabulary: int
    /// They take the first ids and are no text where they stand in it; the first of them begins and ends a text.
    SpecialTokens: string list
    /// The least that a pair must occur to be merged.
    MinFrequency: int
    /// Whether encoding puts the first special token in front.
    AddsBos: bool
    /// The longest text in tokens, for whoever reads tokenizer_config.json.
    ModelMaxLength: int option
}

/// The usual options.
[<RequireQualifiedAccess>]
module BpeOptions =
    /// `<|endoftext|>` alone, put in front; pairs that occur twice.
    let ofVocabulary (size: int) : BpeOptions = {
        Vocabulary = size
        SpecialTokens = [ "<|endoftext|>" ]
        MinFrequency = 2
        AddsBos = true
        ModelMaxLength = None
    }

/// A byte-level BPE tokenizer, and what it made of the text that it was trained on.
type TrainedBpe = {
    Options: BpeOptions
    /// The piece of each id, in GPT-2's spelling of bytes: special tokens, bytes, merged pieces.
    Pieces: string[]
    /// Pairs of ids, the earliest first; each makes the next piece.
    Merges: struct (int * int)[]
    /// The text in UTF-8, without special tokens, and how many tokens it is.
    Bytes: int64
    Tokens: int64
    /// What the user should know: sentences.
    Remarks: string list
}

/// Trains byte-level BPE tokenizers: GPT-2's words, merges of the most frequent pair.
[<RequireQualifiedAccess>]
module BpeTrainer =
    // As many as a tokenizer.json may have to be read here.
    let private mostPieces = 1 <<< 24

    /// The byte alphabet in the order of its characters, as Hugging Face's trainer numbers it.
    let private bytePieces = Array.sort ByteAlphabet.characters

    let private isText (token: string) = Encoding.UTF8.GetString(Encoding.UTF8.GetBytes token) = token

    let private specialFaults (tokens: string list) = [
        let refuse token allowed = LayerSkipError.OutOfRange("special", token, allowed)

        for token, count in List.countBy id tokens do
            if token = "" then
                refuse "empty" "some text"
            elif not (isText token) then
                refuse "not well-formed" "text in UTF-16"
            elif token.Length = 1 && Array.contains token[0] bytePieces then
                refuse token "longer: it is the piece of a byte"

            if count > 1 then
                refuse $"given {count} times as \"{token}\"" "given once"
    ]

    /// Whether the options can be met by some text. OutOfRange for each that cannot; nothing is read.
    let check (options: BpeOptions) : Result<unit, LayerSkipError list> =
        let specials = options.SpecialTokens.Length
        let least = 256 + specials
        let plural = if specials = 1 then "" else "s"
        let faults = [
            if options.Vocabulary < least || options.Vocabulary > mostPieces then
                let allowed =
                    $"{least} to {mostPieces}: there are 256 bytes and {specials} special token{plural}"
                LayerSkipError.OutOfRange("vocab-size", string options.Vocabulary, allowed)
            if options.MinFrequency < 1 then
                LayerSkipError.OutOfRange("min-frequency", string options.MinFrequency, "1 or more")
            for length in Option.toList options.ModelMaxLength do
                if length < 1 then
                    LayerSkipError.OutOfRange("model-max-length", string length, "1 or more")
        ]

        Check.all (faults @ specialFaults options.SpecialTokens) ()

    let private learn (options: BpeOptions) (counts: Dictionary<string, int64>) : TrainedBpe =
        let specials = options.SpecialTokens
        let pieces = List<string> specials
        pieces.AddRange(Seq.map string bytePieces)

        let idOfByte =
            ByteAlphabet.characters
            |> Array.map (fun c -> specials.Length + Array.IndexOf(bytePieces, c))

        let words = [|
            for word in counts.Keys -> Encoding.UTF8.GetBytes word |> Array.map (fun b -> idOfByte[int b])
        |]
        let occurrences = Array.ofSeq counts.Values
        let bytes =
            Seq.fold2 (fun sum (word: int[]) count -> sum + int64 word.Length * count) 0L words occurrences

        let pairs = PairCounts(words, occurrences)
        let merges = BpeMerges.learn options.Vocabulary (int64 options.MinFrequency) specials pieces pairs

        {
            Options = options
            Pieces = pieces.ToArray()
            Merges = merges
            Bytes = bytes
            Tokens = pairs.Symbols
            Remarks = [
                if pieces.Count < options.Vocabulary then
                    let frequency =
                        if options.MinFrequency = 1 then
                            "once"
                        else
                            $"{options.MinFrequency} times"

                    $"the vocabulary has {pieces.Count} tokens, not {options.Vocabulary}: no other pair occurs {frequency} in the text"
            ]
        }

    /// Trains on texts, which are read once, one after the other; the same texts in any order give the same
    /// tokenizer. NoText where there is nothing but special tokens. Memory is that of the different words.
    let train (options: BpeOptions) (texts: seq<string>) : Result<TrainedBpe, LayerSkipError list> =
        check options
        |> Result.bind (fun () ->
            let counts = BpeMerges.count options.SpecialTokens texts
            Check.all (Check.that (counts.Count > 0) LayerSkipError.NoText) counts)
        |> Result.map (learn options)

    let private fileOf (folder: string) = Path.Combine(folder, "tokenizer.json")
    let private configOf (folder: string) = Path.Combine(folder, "tokenizer_config.json")

    /// Whether a tokenizer can be written into a folder, before any work is done: it has none, or one that may be
    /// overwritten, and takes files; or its own folder does.
    let checkOutput (overwrite: bool) (folder: string) : Result<unit, LayerSkipError list> =
        match [ fileOf folder; configOf folder ] |> List.tryFind File.Exists with
        | Some file when not overwrite ->
            Check.bad file "is there already; allow it to be overwritten, or name another place"
        | _ -> AtomicFile.checkFolder folder

    /// Writes tokenizer.json and tokenizer_config.json, each whole or not at all, over those that are there.
    let write (folder: string) (trained: TrainedBpe) : Result<unit, LayerSkipError list> =
        let options = trained.Options
        let first = List.tryHead options.SpecialTokens
        let bos = if options.AddsBos then first else None

        let fill folder =
            TokenizerJsonWriter.config bos.IsSome first first [] options.ModelMaxLength
            |> AtomicFile.writeBytes (configOf folder)
            |> Result.bind (fun () ->
                TokenizerJsonWriter.tokenizer options.SpecialTokens bos trained.Pieces trained.Merges
                |> AtomicFile.writeBytes (fileOf folder))

        if Directory.Exists folder then
            fill folder
        else
            AtomicFile.writeFolder folder fill
