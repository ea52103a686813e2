namespace LayerSkip

open System.IO

/// How the base writes what its adapter learns from.
type SelfWriting = {
    /// Ids of all texts together.
    Tokens: int64
    /// The first ids of the given texts that a text of its own begins with, at most.
    Opening: int
    Temperature: float
    AtOnce: int
}

/// What an adapter learns from: given texts as they are, or texts that the base writes from their beginnings, or from its own.
type AdapterLessons = { Data: TrainingData; Writing: SelfWriting option }

/// The lessons of a run, in its folder.
[<RequireQualifiedAccess>]
module internal AdapterLessons =
    /// What the base wrote: a data file for other runs too.
    let selfFile (output: string) : string = Path.Combine(output, "self.tokens")

    let textOptions (options: TrainingOptions) (writing: SelfWriting) : SelfTextOptions = {
        Length = options.SequenceLength
        Temperature = writing.Temperature
        AtOnce = writing.AtOnce
        Seed = options.Seed
    }

    /// What is wrong with lessons before they are read.
    let faults
        (config: LlamaConfig)
        (options: TrainingOptions)
        (lessons: AdapterLessons)
        : LayerSkipError list =
        match lessons.Writing with
        | None -> RunData.faults lessons.Data
        | Some writing -> [
            yield! SelfText.faults config (textOptions options writing)
            if writing.Tokens < 1L then
                LayerSkipError.OutOfRange("self-tokens", string writing.Tokens, "1 or more")
            yield! Check.atLeast 1 "opening" writing.Opening
            if not lessons.Data.Train.IsEmpty then
                yield! RunData.faults lessons.Data
          ]

    /// The beginnings of a file's texts, and of each further stretch of a long one as long as a text of ours.
    let private beginnings (length: int) (opening: int) (tokens: TokenFile) : int[][] = [|
        for text in 0 .. tokens.Starts.Length - 1 do
            let last = tokens.EndOf text

            for start in tokens.Starts[text] .. int64 length .. last - 1L do
                tokens.Read(start, int (min (int64 opening) (last - start)))
                |> Array.map (fun entry -> let struct (id, _) = TokenFile.decode entry in id)
    |]

    let private openings
        (output: string)
        options
        (model: Checkpoint)
        (lessons: AdapterLessons)
        (writing: SelfWriting)
        =
        if lessons.Data.Train.IsEmpty then
            match model.Tokenizer |> Option.map SelfText.ownOpenings with
            | Some openings when openings.Length > 0 -> Ok openings
            | _ ->
                Check.bad
                    model.Path
                    "has no token that begins a text; give texts whose beginnings it can go on from"
        else
            let train = RunFolder.trainFile output
            let given = { lessons.Data with Validation = []; ValidationShare = 0.0; Eos = false }

            RunData.encode output options model given
            |> Result.bind (fun () -> TokenFile.openRead model.Config.Vocabulary train)
            |> Result.map (fun tokens ->
                use tokens = tokens
                beginnings options.SequenceLength writing.Opening tokens)

    /// Puts what is learned into the run's folder; `written` is told how many ids the base has written so far.
    let prepare
        (output: string)
        (options: TrainingOptions)
        (model: Checkpoint)
        (lessons: AdapterLessons)
        written
        =
        match lessons.Writing with
        | None -> RunData.encode output options model lessons.Data
        | Some writing ->
            let self = selfFile output

            openings output options model lessons writing
            |> Result.bind (fun openings ->
                let texts =
                    SelfText.texts model.Weights (textOptions options writing) openings writing.Tokens
                let mutable count = 0L

                TokenFile.write
                    self
                    (seq {
                        for batch in texts do
                            count <- count + (batch |> Array.sumBy (fun ids -> int64 ids.Length))
                            written count
                            yield! batch
                    }))
            |> Result.bind (fun _ ->
                RunData.encode output options model { lessons.Data with Train = [ self ] })
