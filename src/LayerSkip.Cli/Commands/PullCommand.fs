namespace LayerSkip.Cli

open System.Threading
open LayerSkip

/// `layerskip pull`: brings a model from the hub into the cache, and tells where it is.
[<RequireQualifiedAccess>]
module internal PullCommand =
    let private json (snapshot: HubSnapshot) =
        JsonWrite.line (fun writer ->
            writer.WriteString("name", HubName.text snapshot.Name)
            writer.WriteString("commit", snapshot.Commit)
            writer.WriteString("path", snapshot.Path)

            writer
            |> JsonWrite.objects "files" snapshot.Files (fun (file, bytes) ->
                writer.WriteString("name", file)
                writer.WriteNumber("bytes", bytes))

            writer.WriteNumber("bytes", snapshot.Bytes)
            writer.WriteNumber("fetched_bytes", snapshot.Fetched))

    /// Runs the command; its exit code. Standard output is the path alone, for `--model "$(layerskip pull org/name)"`.
    let run (terminal: Terminal) (common: Common) (arguments: PullArgument list) : int =
        match arguments with
        | [ PullArgument.Name name ] ->
            let options = HubOptions.ofEnvironment () |> Check.getOrRaise
            let bring progress = Hub.pull options name progress CancellationToken.None
            let snapshot = Downloads.wait terminal common.Json name bring |> Check.getOrRaise

            if not common.Json then
                Terminal.remark
                    terminal
                    $"""{HubName.text snapshot.Name}: {Terminal.count snapshot.Files.Length "file"}, {Output.bytes snapshot.Bytes}, {Output.bytes snapshot.Fetched} of them downloaded; commit {snapshot.Commit[..6]}"""

            Terminal.result terminal (if common.Json then json snapshot else snapshot.Path)
            ExitCode.done'
        | [] -> Inputs.usage "no model to pull; name it as org/name"
        | _ -> Inputs.usage "several models to pull; name one"
