namespace LayerSkip.Cli

open System
open System.Text.RegularExpressions

/// What `--help` prints: Argu's manual, with those options of all sub-commands that this one takes, in its own words.
[<RequireQualifiedAccess>]
module internal Manual =
    /// Where Argu's descriptions stand, and where they end.
    let private left, right = 26, 79

    let private option = Regex "^    --(?<name>[a-z-]+)"

    /// Lines that belong together: an option with its description, or a line of anything else.
    let private blocks (manual: string) : string list list =
        let add (blocks: string list list) (line: string) =
            match blocks with
            | (first :: _ as block) :: rest when option.IsMatch first && line.StartsWith(String(' ', left)) ->
                (block @ [ line ]) :: rest
            | _ -> [ line ] :: blocks

        manual.Split '\n' |> Array.fold add [] |> List.rev

    let private nameOf (block: string list) : string option =
        match option.Match block.Head with
        | found when found.Success -> Some found.Groups["name"].Value
        | _ -> None

    /// A description in Argu's columns, behind what stands to its left.
    let private described (front: string) (text: string) : string list =
        let add (lines: string list) (word: string) =
            match lines with
            | line :: rest when line.Length + 1 + word.Length <= right - left -> $"{line} {word}" :: rest
            | lines -> word :: lines

        match text.Split ' ' |> Array.fold add [] |> List.rev with
        | first :: rest when front.Length < left ->
            front.PadRight left + first :: List.map (fun line -> String(' ', left) + line) rest
        | lines -> front :: List.map (fun line -> String(' ', left) + line) lines

    /// The first word of a command line, and the second where the first has sub-commands of its own.
    let private command (argv: string[]) =
        match List.ofArray argv with
        | "tokenizer" :: "train" :: _ -> "tokenizer train"
        | first :: _ -> first
        | [] -> ""

    /// The manual of what was typed, of the one that Argu makes of it.
    let print (argv: string[]) (manual: string) : string =
        let command = command argv
        let vain = CommonOptions.inVain command

        manual.TrimEnd()
        |> blocks
        |> List.collect (fun block ->
            match nameOf block with
            | Some name when List.contains name vain -> []
            // At the head of all sub-commands stands all of it.
            | Some "dtype" when List.contains command Arguments.commands ->
                described
                    (block.Head.Substring(0, min left block.Head.Length).TrimEnd())
                    (Argument.DtypeIn command)
            | _ -> block)
        |> String.concat "\n"
        |> fun text -> text + Arguments.notes argv
