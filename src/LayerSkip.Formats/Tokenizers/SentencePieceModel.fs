namespace LayerSkip

open System.Collections.Generic
open System.IO
open Google.Protobuf

/// What we read of SentencePiece's ModelProto, by the field numbers of its sentencepiece_model.proto.
type private SentencePieceProto = {
    Pieces: List<string>
    Scores: List<float>
    Types: List<int>
    mutable ModelType: int
    mutable ByteFallback: bool
    mutable Bos: int
    mutable Eos: int
    mutable Charsmap: bool
    mutable DummyPrefix: bool
}

/// A tokenizer.model: SentencePiece's protobuf, of the kind BPE.
[<RequireQualifiedAccess>]
module internal SentencePieceModel =
    let private fields (input: CodedInputStream) (read: int -> bool) =
        let mutable tag = input.ReadTag()

        while tag <> 0u do
            if not (read (WireFormat.GetTagFieldNumber tag)) then
                input.SkipLastField()

            tag <- input.ReadTag()

    let private message (input: CodedInputStream) (read: CodedInputStream -> int -> bool) =
        let inner = input.ReadBytes().CreateCodedInput()
        fields inner (read inner)
        true

    let private piece (proto: SentencePieceProto) =
        proto.Pieces.Add ""
        proto.Scores.Add 0.0
        proto.Types.Add PieceType.normal
        let last = proto.Pieces.Count - 1

        fun (input: CodedInputStream) field ->
            match field with
            | 1 ->
                proto.Pieces[last] <- input.ReadString()
                true
            | 2 ->
                proto.Scores[last] <- float (input.ReadFloat())
                true
            | 3 ->
                proto.Types[last] <- input.ReadEnum()
                true
            | _ -> false

    let private trainer (proto: SentencePieceProto) (input: CodedInputStream) field =
        match field with
        | 3 ->
            proto.ModelType <- input.ReadEnum()
            true
        | 35 ->
            proto.ByteFallback <- input.ReadBool()
            true
        | 41 ->
            proto.Bos <- input.ReadInt32()
            true
        | 42 ->
            proto.Eos <- input.ReadInt32()
            true
        | _ -> false

    let private normalizer (proto: SentencePieceProto) (input: CodedInputStream) field =
        match field with
        | 2 ->
            proto.Charsmap <- input.ReadBytes().Length > 0
            true
        | 3 ->
            proto.DummyPrefix <- input.ReadBool()
            true
        | _ -> false

    let private read (bytes: byte[]) : SentencePieceProto =
        let proto = {
            Pieces = List()
            Scores = List()
            Types = List()
            ModelType = 1
            ByteFallback = false
            Bos = 1
            Eos = 2
            Charsmap = false
            DummyPrefix = true
        }

        let input = new CodedInputStream(bytes)

        fields input (fun field ->
            match field with
            | 1 -> message input (piece proto)
            | 2 -> message input (trainer proto)
            | 3 -> message input (normalizer proto)
            | _ -> false)

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

        let added = [
            for id in 0 .. pieces.Length - 1 do
                if not (beside.Contains id) then
                    if types[id] = PieceType.control || types[id] = PieceType.unknown then
                        AddedToken.plain id pieces[id] true
                    elif types[id] = PieceType.userDefined then
                        { AddedToken.plain id pieces[id] false with Normalized = true }

            yield! config.Added
        ]

        let inside id = if 0 <= id && id < pieces.Length then Some id else None

        let named (name: string option) =
            name
            |> Option.bind (fun name -> added |> List.tryFind (fun token -> token.Content = name))
            |> Option.map _.Id

        let bos = named config.Bos |> Option.orElse (inside proto.Bos)

        if not faults.IsEmpty then
            Error faults
        else
            let parts = {
                Kind = "SentencePiece BPE"
                Spelling = Spelling.SentencePiece true
                DropsFirstSpace = proto.DummyPrefix
                // `remove_extra_whitespaces` is set in many Llama files, and nobody heeds it: not llama2.c, nor llama.cpp,
                // nor Hugging Face's converter.
                Normalize = SentencePieceBpe.normalize proto.DummyPrefix
                Words = Array.singleton
                Bpe = SentencePieceBpe.build pieces (proto.Scores.ToArray()) types proto.ByteFallback
                Prefix = []
                AddsBos = bos.IsSome && defaultArg config.AddsBos true
                Bos = bos
                Eos = named config.Eos |> Option.orElse (inside proto.Eos)
                Template = config.Template
            }

            TokenizerCore.create
                path
                parts
                added
                (seq {
                    yield! pieces |> Seq.mapi (fun id piece -> struct (id, piece))
                    for token in config.Added -> struct (token.Id, token.Content)
                })

    /// Reads a tokenizer.model, and the tokenizer_config.json beside it.
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
                    Error [ LayerSkipError.BadFile(path, "not a SentencePiece model; get it again") ])
