namespace LayerSkip

open System.IO
open System.Runtime.InteropServices

/// What computes, as reports name it.
[<RequireQualifiedAccess>]
module Processor =
    /// The processor's name, as Linux has it; elsewhere its architecture.
    let name () : string =
        let described = "/proc/cpuinfo"

        (if File.Exists described then
             File.ReadLines described
         else
             Seq.empty)
        |> Seq.tryFind (fun line -> line.StartsWith "model name")
        |> Option.map (fun line -> line.Substring(line.IndexOf ':' + 1).Trim())
        |> Option.defaultValue (string RuntimeInformation.ProcessArchitecture)
