namespace LayerSkip

open System
open System.IO

/// Text, .jsonl and token files to learn from.
type TrainingData = {
    Train: string list
    /// None: a share of the training texts, which are then not trained on.
    Validation: string list
    ValidationShare: float
    /// Whether the BOS that the tokenizer puts before a prompt, and its EOS, go around each text that lacks them.
    Bos: bool
    Eos: bool
    /// Whether special tokens that stand in the texts are read as such, as in a prompt; else they are characters.
    Special: bool
}

[<RequireQualifiedAccess>]
module TrainingData =
    /// The share of the texts that are validated on where no others are named.
    let defaultShare = 0.05

/// The data of a run in its folder: what it learns, and what it validates on.
[<RequireQualifiedAccess>]
module internal RunData =
    let private bad (sources: string list) why = Check.bad (String.concat ", " sources) why

    let private idsOf (model: Checkpoint) (options: TrainingOptions) (data: TrainingData) : LessonIds =
        let tokenizer = Checkpoint.tokenizer model |> Check.getOrRaise
        let isOpened = data.Bos && tokenizer.Parts.AddsBos
        let opening =
            if isOpened then
                Array.ofList tokenizer.Parts.Prefix
            else
                [||]
        let closing = if data.Eos then Tokenizer.eos tokenizer else None
        let words = lazy (ChatSamples.words data.Eos model)

        let chat (lesson: ChatLesson) =
            if options.Layout = Layout.Packed then
                Check.throw (
                    LayerSkipError.OutOfRange(
                        "layout",
                        "packed",
                        "each: conversations are not to see one another"
                    )
                )
            else
                words.Value |> Result.bind (fun words -> ChatSamples.ofLesson words lesson)

        // Where one token is both, one of it parts two packed texts.
        let isBoth = options.Layout = Layout.Packed && Some opening = Option.map Array.singleton closing

        {
            Tokenizer = tokenizer
            Opening = opening
            Closing = if isBoth then None else closing
            ParsesSpecial = data.Special
            Chat = chat
        }

    /// A file's texts as entries.
    let private entriesOf (vocabulary: int) (ids: Lazy<LessonIds>) (path: string) : seq<TextEntries> =
        if TokenFile.isTokens path then
            seq {
                use tokens = TokenFile.openRead vocabulary path |> Check.getOrRaise
                yield! TokenFile.parts tokens 0L tokens.Count
            }
        else
            seq { yield! LessonIds.ofFile ids.Value path }

    /// What files' texts were written as.
    [<NoEquality; NoComparison>]
    type private Written = {
        /// In the order of the writers.
        Conversations: ConversationCount list
        /// The number of the last text, where all of a conversation's samples have one; whether it is a conversation.
        Last: int
        EndsWithChat: bool
    }

    /// Adds files' texts to the writers that `choose` names by the number of a text; a conversation's samples go together.
    let private addAll
        vocabulary
        ids
        length
        sources
        (writers: TokenWriter list)
        (choose: int -> TokenWriter)
        =
        let counts = writers |> List.map (fun _ -> ref ConversationCount.zero)
        let samples = ResizeArray<int[]>()
        let mutable number = -1
        let mutable endsWithChat = false

        let count () =
            if samples.Count > 0 then
                let total = List.item (List.findIndex ((=) (choose number)) writers) counts
                total.Value <-
                    ConversationCount.ofSamples length (List.ofSeq samples)
                    |> ConversationCount.plus total.Value
                samples.Clear()

        for part in Seq.collect (entriesOf vocabulary ids) sources do
            if part.Begins && part.Sample <= 1 then
                count ()
                number <- number + 1

            endsWithChat <- part.Sample > 0

            if endsWithChat then
                samples.Add part.Entries

            (choose number).Add part

        count ()
        let sum (count: TokenWriter -> int64) = List.sumBy count writers

        if sum _.Count = 0L then
            bad sources "has no text; there is nothing to learn from" |> Check.getOrRaise
        elif sum _.Learned = 0L then
            bad sources "has nothing to learn: all of it is prompts, which are only read"
            |> Check.getOrRaise

        { Conversations = counts |> List.map _.Value; Last = number; EndsWithChat = endsWithChat }

    /// Writes texts into one file: what their conversations come to.
    let private writeAll vocabulary ids length (sources: string list) (target: string) =
        let written = ref None

        TokenFile.writeParts target (fun writer ->
            written.Value <- Some(addAll vocabulary ids length sources [ writer ] (fun _ -> writer)))
        |> Result.map (fun _ -> written.Value.Value.Conversations.Head)

    /// Writes texts whose number is held out into `valid`, the others into `train`: both files' writers, and what was written.
    let private writeParted
        vocabulary
        ids
        length
        sources
        (train: string)
        (valid: string)
        (isHeldOut: int -> bool)
        =
        let made = ref None

        TokenFile.writeParts train (fun writer ->
            TokenFile.writeParts valid (fun other ->
                let written =
                    addAll vocabulary ids length sources [ writer; other ] (fun number ->
                        if isHeldOut number then other else writer)

                made.Value <- Some(writer, other, written))
            |> Check.getOrRaise
            |> ignore)
        |> Result.map (fun _ -> made.Value.Value)

    let private tooLittle sources =
        bad
            sources
            $"has too little text to part some off for validation (\"{Texts.separator}\" stands between texts, a line of .jsonl is one); give more text, other files to validate on, or hold none of it out"

    /// Where no text is held out, or every one, the end of the last text is: as much as was asked for, and one sample at
    /// least. A pair and a short text go as a whole.
    let private holdOutEnd (options: TrainingOptions) vocabulary share (found: string) train valid sources =
        TokenFile.openRead vocabulary found
        |> Result.bind (fun tokens ->
            use tokens = tokens
            let last = Array.last tokens.Starts
            let wanted = max (int64 (ceil (share * float tokens.Count))) (int64 options.SequenceLength)
            let isPair = (tokens.Read(last, 1))[0] < 0

            let isWhole = isPair || tokens.Count - last <= wanted
            let cut = if isWhole then last else tokens.Count - wanted

            let copy path first stop =
                TokenFile.writeParts path (fun writer ->
                    Seq.iter writer.Add (TokenFile.parts tokens first stop))
                |> Result.map ignore

            if cut = 0L then
                tooLittle sources
            else
                copy valid cut tokens.Count |> Result.bind (fun () -> copy train 0L cut))

    /// Encodes the data into the run's folder, each text once.
    let encode (output: string) options (model: Checkpoint) (data: TrainingData) : Result<unit, _> =
        let vocabulary = model.Config.Vocabulary
        let ids = lazy (idsOf model options data)
        let train, valid = RunFolder.trainFile output, RunFolder.validFile output

        let writeAll = writeAll vocabulary ids options.SequenceLength

        let parted () =
            match data.Validation with
            | [] when data.ValidationShare > 0.0 ->
                let writeParted = writeParted vocabulary ids options.SequenceLength data.Train train valid
                let holdOutEnd = holdOutEnd options vocabulary data.ValidationShare

                writeParted (Dataset.isHeldOut options.Seed data.ValidationShare)
                |> Result.bind (fun (learned, heldOut, written) ->
                    let conversations = List.reduce ConversationCount.plus written.Conversations

                    if learned.Texts > 0 && heldOut.Texts > 0 then
                        Ok written.Conversations.Head
                    elif written.EndsWithChat && written.Last = 0 then
                        tooLittle data.Train
                    elif written.EndsWithChat then
                        // Its samples go together.
                        writeParted ((=) written.Last)
                        |> Result.map (fun (_, _, written) -> written.Conversations.Head)
                    else
                        holdOutEnd (if learned.Texts = 0 then valid else train) train valid data.Train
                        |> Result.map (fun () -> conversations))
            | [] ->
                writeAll data.Train train
                |> Result.map (fun conversations ->
                    // An earlier run's is none of this one's.
                    File.Delete valid
                    conversations)
            | files -> Check.both (writeAll data.Train train) (writeAll files valid) |> Result.map fst

        let made =
            Check.guard (parted >> Result.bind (ConversationCount.save (RunFolder.conversationsFile output)))

        if Result.isError made then
            File.Delete train
            File.Delete valid

        made

    /// What is learned, and what validates, of a run's folder.
    let openData (output: string) (config: LlamaConfig) (options: TrainingOptions) =
        let dataset seed path =
            TokenFile.openRead config.Vocabulary path
            |> Result.bind (Dataset.create options.Layout options.SequenceLength seed)

        let validation =
            match RunFolder.validFile output with
            | path when File.Exists path -> dataset None path |> Result.map Some
            | _ -> Ok None

        Check.both (dataset (Some options.Seed) (RunFolder.trainFile output)) validation

    /// What is wrong with the data before they are read.
    let faults (data: TrainingData) : LayerSkipError list = [
        let isShare = data.ValidationShare >= 0.0 && data.ValidationShare < 1.0
        yield!
            Check.inRange (not data.Train.IsEmpty) "data" "missing" "one or more text, .jsonl or token files"
        yield! Check.inRange isShare "valid-share" (string data.ValidationShare) "0 or more, and below 1"
        yield! List.collect Texts.check (data.Train @ data.Validation)
    ]
