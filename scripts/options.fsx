// The command line of a script: --name VALUE pairs, checked against its usage. What is wrong is one line and exit code 2.
module Options

open System
open System.IO
open LayerSkip

let private script = Path.GetFileName fsi.CommandLineArgs[0]

let stop (code: int) (message: string) : 'T =
    eprintfn "%s: %s" (Path.GetFileNameWithoutExtension script) message
    exit code

let orStop (result: Result<'T, LayerSkipError list>) : 'T =
    match result with
    | Ok value -> value
    | Error faults -> stop 2 (LayerSkipError.summary faults)

/// The options that were given, by name. `usage` names all there are: "--model DIR --runs N".
type Given(usage: string) =
    let known = usage.Split ' ' |> Array.filter _.StartsWith("--")

    let rec pairs (arguments: string list) =
        match arguments with
        | ("--help" | "-h") :: _ ->
            printfn "dotnet fsi scripts/%s %s" script usage
            exit 0
        | name :: value :: rest when Array.contains name known -> (name, value) :: pairs rest
        | [ name ] when Array.contains name known -> stop 2 $"{name} needs a value; the options are {usage}"
        | name :: _ -> stop 2 $"unknown option {name}; the options are {usage}"
        | [] -> []

    let given =
        fsi.CommandLineArgs[1..]
        |> Array.filter (fun argument -> argument <> "--")
        |> List.ofArray
        |> pairs
        |> Map.ofList

    member _.TryText(name: string) : string option = Map.tryFind name given

    member this.Text(name: string, fallback: string) : string =
        this.TryText name |> Option.defaultValue fallback

    member this.Whole(name: string, least: int, fallback: int) : int =
        match this.TryText name with
        | None -> fallback
        | Some text ->
            match Number.tryWhole text with
            | Some value when value >= least -> value
            | _ when least = Int32.MinValue -> stop 2 $"{name} is {text}, it must be a whole number"
            | _ -> stop 2 $"{name} is {text}, it must be a whole number, {least} or more"

    /// A number above 0.
    member this.Real(name: string, fallback: float) : float =
        match this.TryText name with
        | None -> fallback
        | Some text ->
            match Number.tryReal text with
            | Some value when value > 0.0 -> value
            | _ -> stop 2 $"{name} is {text}, it must be a number above 0; write it as 0.5"
