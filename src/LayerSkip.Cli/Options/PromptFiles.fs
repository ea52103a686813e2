namespace LayerSkip.Cli

open System
open System.Text
open LayerSkip

/// Files of prompts: a text on each line, or a JSON object (.jsonl).
[<RequireQualifiedAccess>]
module internal PromptFiles =
    // Each line is decoded many times over, and a device has no last one.
    let private mostLines = 100_000

    /// The lines that hold something, each with its number from 1.
    let private linesOf (file: string) =
        Inputs.notEmpty "prompts" "a UTF-8 text file" file
        |> TextFile.lines
        |> Seq.map (fun (struct (number, line)) ->
            if number > mostLines then
                let fault = $"has more than {Output.number mostLines} lines, the most that are read; cut it"
                Inputs.stop (LayerSkipError.BadFile(file, fault))

            number, line.Trim())
        |> Seq.filter (fun (_, line) -> line <> "")

    /// The prompt of an object: "prompt", or the first of "turns" (MT-bench, Spec-Bench). Or what is wrong.
    let private ofJson (line: string) : Result<string, string> =
        match Json.parse (Encoding.UTF8.GetBytes line) with
        | Error _ -> Error "is no JSON; a .jsonl file has an object on each line"
        | Ok document ->
            use document = document

            try
                let root = JsonPart document.RootElement

                match root.TryField "prompt", root.TryField "turns" with
                | Some prompt, _ -> Ok prompt.Text
                | None, Some turns ->
                    match Seq.tryHead turns.Items with
                    | Some first -> Ok first.Text
                    | None -> Error "has no turn in \"turns\""
                | None, None -> Error "has neither \"prompt\" nor \"turns\""
            with
            | JsonFault("", fault) -> Error fault
            | JsonFault(place, fault) -> Error $"has a \"{place}\" that {fault}"

    /// Every prompt is checked before any work, which may take long: ids that the model knows, and room for one more in its context.
    let read (checkpoint: Checkpoint) (file: string) : int[][] =
        let isJson = file.EndsWith(".jsonl", StringComparison.OrdinalIgnoreCase)

        let idsOf (text: string) =
            match checkpoint.Tokenizer with
            | Some _ -> Ok(PromptWords.encode checkpoint text)
            | None -> Inputs.tryNumbers text

        let read (number: int, line: string) =
            match (if isJson then ofJson line else Ok line) |> Result.bind idsOf with
            | Error why -> [||], [ LayerSkipError.BadFile(file, $"line {number} {why}") ]
            | Ok ids ->
                let fault error =
                    LayerSkipError.BadFile(file, $"line {number}: {LayerSkipError.message error}")

                let config = checkpoint.Config
                ids, PromptIds.unknown config ids @ PromptIds.length config ids |> List.map fault

        let prompts = linesOf file |> Seq.map read |> Array.ofSeq

        if prompts.Length = 0 then
            Inputs.usage $"{file} holds no prompt; write one on each line"

        let faults = prompts |> Seq.collect snd |> List.ofSeq
        Check.all faults (Array.map fst prompts) |> Check.getOrRaise
