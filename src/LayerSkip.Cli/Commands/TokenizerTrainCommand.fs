namespace LayerSkip.Cli

open System
open System.Diagnostics
open LayerSkip

/// `layerskip tokenizer train`.
[<RequireQualifiedAccess>]
module internal TokenizerTrainCommand =
    /// What the command line gives; repeated options in reverse.
    type private Given = {
        Texts: string list
        Vocabulary: int option
        Output: string option
        Specials: string list
        MinFrequency: int option
        AddsBos: bool
        Overwrite: bool
    }

    let private nothing = {
        Texts = []
        Vocabulary = None
        Output = None
        Specials = []
        MinFrequency = None
        AddsBos = true
        Overwrite = false
    }

    let private add (given: Given) (argument: TokenizerTrainArgument) : Given =
        match argument with
        | TokenizerTrainArgument.Text file -> { given with Texts = file :: given.Texts }
        | TokenizerTrainArgument.VocabSize size -> { given with Vocabulary = Some size }
        | TokenizerTrainArgument.Output folder -> { given with Output = Some folder }
        | TokenizerTrainArgument.Special token -> { given with Specials = token :: given.Specials }
        | TokenizerTrainArgument.MinFrequency count -> { given with MinFrequency = Some count }
        | TokenizerTrainArgument.NoBos -> { given with AddsBos = false }
        | TokenizerTrainArgument.Overwrite -> { given with Overwrite = true }

    let private optionsOf (given: Given) : BpeOptions =
        let usual =
            match given.Vocabulary with
            | Some size -> BpeOptions.ofVocabulary size
            | None -> Inputs.usage "no --vocab-size; say how many tokens the vocabulary shall have, as 2048"

        {
            usual with
                SpecialTokens =
                    if given.Specials.IsEmpty then
                        usual.SpecialTokens
                    else
                        List.rev given.Specials
                MinFrequency = given.MinFrequency |> Option.defaultValue usual.MinFrequency
                AddsBos = given.AddsBos
        }

    let private textsOf (given: Given) : string list =
        if given.Texts.IsEmpty then
            Inputs.usage "no --text; name a UTF-8 text file to train on"

        if List.contains "" given.Texts then
            Inputs.usage "--text is empty; name a UTF-8 text file"

        List.rev given.Texts

    let private outputOf (given: Given) : string =
        match given.Output with
        | Some "" -> Inputs.usage "--output is empty; name the folder for the tokenizer"
        | Some folder -> folder
        | None -> Inputs.usage "no --output; name the folder for the tokenizer"

    let private bytesPerToken (trained: TrainedBpe) = float trained.Bytes / float trained.Tokens

    let private json (output: string) (seconds: float) (trained: TrainedBpe) =
        Output.json (fun writer ->
            writer.WriteString("output", output)
            writer.WriteNumber("vocabulary", trained.Pieces.Length)
            writer.WriteNumber("merges", trained.Merges.Length)
            writer.WriteNumber("bytes", trained.Bytes)
            writer.WriteNumber("tokens", trained.Tokens)
            writer.WriteNumber("bytes_per_token", Math.Round(bytesPerToken trained, 4))
            writer.WriteNumber("seconds", Math.Round(seconds, 3)))

    let private line (output: string) (seconds: float) (trained: TrainedBpe) =
        $"{output}: {trained.Pieces.Length} tokens; {Output.fixedPoint 2 (bytesPerToken trained)} bytes per token "
        + $"over {Output.bytes trained.Bytes} of text, in {Output.fixedPoint 1 seconds} s"

    let run (terminal: Terminal) (common: Common) (arguments: TokenizerTrainArgument list) : int =
        let given = List.fold add nothing arguments
        let files, options, output = textsOf given, optionsOf given, outputOf given

        // What can be told before any text is read.
        [ BpeTrainer.check options; BpeTrainer.checkOutput given.Overwrite output ]
        |> List.collect Check.faults
        |> List.append (files |> List.collect (TextFile.check "a UTF-8 text or .jsonl file"))
        |> fun faults -> Check.all faults ()
        |> Check.getOrRaise

        let watch = Stopwatch.StartNew()

        let trained =
            using (Terminal.working terminal "training a tokenizer") (fun _ ->
                files
                |> Seq.collect (Texts.parts options.SpecialTokens)
                |> Seq.collect (fun part ->
                    match part.Lesson with
                    | Lesson.Text text -> [ text ]
                    | Lesson.Pair(prompt, response) -> [ prompt; response ])
                |> BpeTrainer.train options
                |> Check.getOrRaise)

        let seconds = watch.Elapsed.TotalSeconds
        BpeTrainer.write output trained |> Check.getOrRaise

        for remark in trained.Remarks do
            Terminal.remark terminal remark

        Terminal.result terminal ((if common.Json then json else line) output seconds trained)
        ExitCode.done'
