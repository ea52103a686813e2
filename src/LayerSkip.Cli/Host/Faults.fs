namespace LayerSkip.Cli

open System
open System.Text.RegularExpressions
open LayerSkip

/// Faults in the words of whoever typed the command line.
[<RequireQualifiedAccess>]
module internal Faults =
    // What Argu says of a value that it cannot read, here of a whole number, which the manual names with a letter; after a
    // space, and after =.
    let private unread =
        Regex
            "^(parameter '(?<option>[^'=]+)' must be followed by <[a-z]>, but was '(?<value>.*)'|argument '(?<option>[^'=]+)=(?<value>.*)' .*<[a-z]>.*)$"

    let private whole = Regex "^[-+]?[0-9]+$"

    /// What whole numbers an option takes.
    let private allowed option =
        match option with
        | "--seed" -> $"{Int64.MinValue} to {Int64.MaxValue}"
        | "--threads" -> $"1 to {Backend.mostThreads}"
        | "--top-k" -> $"0 (all) to {Int32.MaxValue}"
        | "--port" -> "0 (any free one) to 65535"
        | "--save-every"
        | "--validate-every"
        | "--probe-every" -> $"0 (never) to {Int32.MaxValue}"
        | "--queue"
        | "--prefix-texts" -> $"0 to {Int32.MaxValue}"
        | _ -> $"1 to {Int32.MaxValue}"

    /// Argu's message without the manual that follows it.
    let ofArgu (message: string) : string =
        let first = message.Split('\n')[0]
        let first = first.Replace("ERROR: ", "").Trim().TrimEnd '.'
        let found = unread.Match first

        let option, value = found.Groups["option"].Value, found.Groups["value"].Value

        if found.Success && whole.IsMatch value then
            let size = if value.StartsWith '-' then "small" else "big"
            $"{option} is {value}, which is too {size}; it must be {allowed option}"
        elif found.Success then
            $"{option} is \"{value}\", it must be a whole number; write it as 12"
        else
            first

    /// What the library advises in words of its own, and the option that does it. The one place that knows both.
    let private options = [
        "allow it to be overwritten", "give --overwrite"
        "name another place", "name another with --output"
        "resume it", "go on with --resume"
        "other files to validate on, or hold none of it out", "files for --validation, or --valid-share 0"
        "take smaller samples", "a smaller --sequence-length"
        "give longer samples", "give a longer --sequence-length"
        "export a Hugging Face folder", "use --format hf"
        "export a GGUF file", "use --format gguf"
        "use dtype", "use --dtype"
        "use the CPU", "use --device cpu"
        "give stop ids", "give --stop-ids"
    ]

    /// Puts options in place of the library's words.
    let advice (text: string) : string =
        options |> List.fold (fun text (words, option) -> text.Replace(words, option)) text

    /// A fault whose option is written as on the command line.
    let private asTyped (error: LayerSkipError) : LayerSkipError =
        match error |> LayerSkipError.withOptions (fun option -> "--" + option) with
        | LayerSkipError.BadFile(path, fault) -> LayerSkipError.BadFile(path, advice fault)
        | LayerSkipError.NotFound(path, hint) -> LayerSkipError.NotFound(path, advice hint)
        | LayerSkipError.Unsupported(what, hint) -> LayerSkipError.Unsupported(what, advice hint)
        | LayerSkipError.NoDevice(device, why) -> LayerSkipError.NoDevice(device, advice why)
        | error -> error

    // Words of one case, which holds no advice of its own.
    let private example = "take an instruction-tuned model, as "

    /// The library's faults, with options as they are typed.
    let ofLibrary (errors: LayerSkipError list) : string =
        (errors |> List.map asTyped |> LayerSkipError.summary).Replace(example, example + "--model ")
