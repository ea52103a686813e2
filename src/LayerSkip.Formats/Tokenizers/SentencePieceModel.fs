namespace LayerSkip

open System.Collections.Generic
open System.IO
open Google.Protobuf

/// What we read of SentencePiece's ModelProto, by the field numbers of its sentencepiece_model.proto, with its defaults.
[<Sealed>]
type private SentencePieceProto() =
    member val Pieces = List<string>()
    member val Scores = List<float>()
    member val Types = List<int>()
    member val ModelType = 1 with get, set
    member val ByteFallback = false with get, set
    member val Bos = 1 with get, set
    member val Eos = 2 with get, set
    member val Charsmap = false with get, set
    member val DummyPrefix = true with get, set

/// A tokenizer.model: SentencePiece's protobuf, of the kind BPE.
[<RequireQualifiedAccess>]
module internal SentencePieceModel =
    /// Reads a message of these fields; others are passed over.
    let rec private message
        (fields: (int * (CodedInputStream -> unit)) list)
        (input: CodedInputStream)
        : unit =
        match input.ReadTag() with
        | 0u -> ()
        | tag ->
            match fields |> List.tryFind (fun (number, _) -> number = WireFormat.GetTagFieldNumber tag) with
            | Some(_, read) -> read input
            | None -> input.SkipLastField()

            message fields input

    let private inside fields (input: CodedInputStream) =
        input.ReadBytes().CreateCodedInput() |> message fields

    let private piece (proto: SentencePieceProto) (input: CodedInputStream) =
        proto.Pieces.Add ""
        proto.Scores.Add 0.0
        proto.Types.Add PieceType.normal
        let last = proto.Pieces.Count - 1

        inside
            [
                1, (fun input -> proto.Pieces[last] <- input.ReadString())
                2, (fun input -> proto.Scores[last] <- float (input.ReadFloat()))
                3, (fun input -> proto.Types[last] <- input.ReadEnum())
            ]
            input

    let private trainer (proto: SentencePieceProto) : (int * (CodedInputStream -> unit)) list = [
        3, (fun input -> proto.ModelType <- input.ReadEnum())
        35, (fun input -> proto.ByteFallback <- input.ReadBool())
        41, (fun input -> proto.Bos <- input.ReadInt32())
        42, (fun input -> proto.Eos <- input.ReadInt32())
    ]

    let private normalizer (proto: SentencePieceProto) : (int * (CodedInputStream -> unit)) list = [
        2, (fun input -> proto.Charsmap <- input.ReadBytes().Length > 0)
        3, (fun input -> proto.DummyPrefix <- input.ReadBool())
    ]

    let private read (bytes: byte[]) : SentencePieceProto =
        let proto = SentencePieceProto()

        new CodedInputStream(bytes)
        |> message [ 1, piece proto; 2, inside (trainer proto); 3, inside (normalizer proto) ]

        proto

    let private build path (config: TokenizerConfig) (proto: SentencePieceProto) =
        let pieces, types = proto.Pieces.ToArray(), proto.Types.ToArray()

        let faults = [
            if pieces.Length = 0 then
                LayerSkipError.BadFile(path, "holds no pieces; a SentencePiece model does")
            elif proto.ModelType <> 2 then
                LayerSkipError.Unsupported(
                    $"{path}: SentencePiece model type {proto.ModelType}",
                    "BPE (2) is"
                )
            if proto.Charsmap then
                let hint = "the identity is; a tokenizer.json of the same model may work"
                LayerSkipError.Unsupported($"{path}: SentencePiece with a normalization table", hint)
        ]

        // A token beside the model takes the place of its piece, or comes after them.
        let beside = config.Added |> Seq.map _.Id |> HashSet

        let own =
            PieceType.added true pieces types
            |> List.filter (fun token -> not (beside.Contains token.Id))

        let added = own @ config.Added

        let inside id = if 0 <= id && id < pieces.Length then Some id else None

        let named (name: string option) =
            name
            |> Option.bind (fun name -> added |> List.tryFind (fun token -> token.Content = name))
            |> Option.map _.Id

        let bos = named config.Bos |> Option.orElse (inside proto.Bos)

        if not faults.IsEmpty then
            Error faults
        else
            let bpe = SentencePieceBpe.build pieces (proto.Scores.ToArray()) types proto.ByteFallback

            let parts = {
                // `remove_extra_whitespaces` is set in many Llama files, and nobody heeds it: not llama2.c, nor llama.cpp,
                // nor Hugging Face's converter.
                SentencePieceBpe.parts proto.DummyPrefix bpe with
                    AddsBos = bos.IsSome && defaultArg config.AddsBos true
                    Bos = bos
                    Eos = named config.Eos |> Option.orElse (inside proto.Eos)
                    Templates = config.Templates
            }

            seq {
                yield! pieces |> Seq.mapi (fun id piece -> struct (id, piece))
                for token in config.Added -> struct (token.Id, token.Content)
            }
            |> TokenizerCore.create path parts added

    /// Reads a tokenizer.model, and the tokenizer_config.json beside it. A model of another type (unigram, word), or
    /// with a table of normalization, is Unsupported.
    let load (path: string) : Result<Tokenizer, LayerSkipError list> =
        if not (File.Exists path) then
            Error [ LayerSkipError.NotFound(path, "a SentencePiece model is needed") ]
        else
            JsonPart.guard path (fun () ->
                try
                    TokenizerConfig.load (Path.GetDirectoryName(Path.GetFullPath path))
                    |> Result.bind (fun config ->
                        SourceFile.readAll path "" |> Result.bind (read >> build path config))
                with :? InvalidProtocolBufferException ->
                    Check.bad path "not a SentencePiece model; get it again")
