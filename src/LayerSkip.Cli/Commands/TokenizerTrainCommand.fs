namespace LayerSkip.Cli

open System
open System.Diagnostics
open LayerSkip

/// `layerskip tokenizer train`: makes a tokenizer of texts, for a model from scratch; `BpeTrainer` does the work.
[<RequireQualifiedAccess>]
module internal TokenizerTrainCommand =
    /// What the command line gives; repeated options in reverse.
    type private Given = {
        Texts: string list
        Vocabulary: int option
        Output: string option
        Specials: string list
        Options: BpeOptions
        Overwrite: bool
    }

    /// What a command line without options gives.
    let private nothing = {
        Texts = []
        Vocabulary = None
        Output = None
        Specials = []
        Options = BpeOptions.ofVocabulary 0
        Overwrite = false
    }

    /// The options with one more.
    let private add (given: Given) (argument: TokenizerTrainArgument) : Given =
        match argument with
        | TokenizerTrainArgument.Text file -> { given with Texts = file :: given.Texts }
        | TokenizerTrainArgument.VocabSize size -> { given with Vocabulary = Some size }
        | TokenizerTrainArgument.Output folder -> { given with Output = Some folder }
        | TokenizerTrainArgument.Special token -> { given with Specials = token :: given.Specials }
        | TokenizerTrainArgument.MinFrequency count -> { given with Options.MinFrequency = count }
        | TokenizerTrainArgument.NoBos -> { given with Options.AddsBos = false }
        | TokenizerTrainArgument.Overwrite -> { given with Overwrite = true }

    /// What the trainer is asked for; special tokens that are given stand in place of the usual one.
    let private optionsOf (given: Given) : BpeOptions =
        let size =
            match given.Vocabulary with
            | Some size -> size
            | None -> Inputs.usage "no --vocab-size; say how many tokens the vocabulary shall have, as 2048"

        let options = { given.Options with Vocabulary = size }

        match given.Specials with
        | [] -> options
        | specials -> { options with SpecialTokens = List.rev specials }

    /// The files, in the order given.
    let private textsOf (given: Given) : string list =
        if given.Texts.IsEmpty then
            Inputs.usage "no --text; name a UTF-8 text file to train on"

        given.Texts |> List.rev |> List.map (Inputs.notEmpty "text" "a UTF-8 text file")

    /// How well the tokenizer shortens the text that it was made of.
    let private bytesPerToken (trained: TrainedBpe) = float trained.Bytes / float trained.Tokens

    /// What was made; bytes are those of the text, in UTF-8.
    let private json (output: string) (seconds: float) (trained: TrainedBpe) =
        JsonWrite.line (fun writer ->
            writer.WriteString("output", output)
            writer.WriteNumber("vocabulary", trained.Pieces.Length)
            writer.WriteNumber("merges", trained.Merges.Length)
            writer.WriteNumber("bytes", trained.Bytes)
            writer.WriteNumber("tokens", trained.Tokens)
            writer.WriteNumber("bytes_per_token", Math.Round(bytesPerToken trained, 4))
            writer.WriteNumber("seconds", Math.Round(seconds, 3)))

    /// The same as a line.
    let private line (output: string) (seconds: float) (trained: TrainedBpe) =
        $"{output}: {trained.Pieces.Length} tokens; {Shown.fixedPoint 2 (bytesPerToken trained)} bytes per token "
        + $"over {Output.bytes trained.Bytes} of text, in {Shown.fixedPoint 1 seconds} s"

    /// Runs the command; its exit code. No tensors are needed, and libtorch is not loaded.
    let run (terminal: Terminal) (common: Common) (arguments: TokenizerTrainArgument list) : int =
        let given = List.fold add nothing arguments
        let files, options = textsOf given, optionsOf given
        let output = Inputs.required "output" "the folder for the tokenizer" given.Output

        // What can be told before any text is read.
        [ BpeTrainer.check options; BpeTrainer.checkOutput given.Overwrite output ]
        |> List.collect Check.faults
        |> List.append (files |> List.collect (TextFile.check "a UTF-8 text or .jsonl file"))
        |> Inputs.refuse

        let watch = Stopwatch.StartNew()

        let trained =
            using (Terminal.working terminal "training a tokenizer") (fun _ ->
                files
                |> Seq.collect (Texts.parts options.SpecialTokens)
                |> Seq.collect (fun part -> Lesson.texts part.Lesson)
                |> BpeTrainer.train options
                |> Check.getOrRaise)

        let seconds = watch.Elapsed.TotalSeconds
        BpeTrainer.write output trained |> Check.getOrRaise

        for remark in trained.Remarks do
            Terminal.remark terminal remark

        Terminal.result terminal ((if common.Json then json else line) output seconds trained)
        ExitCode.done'
